"""Training settings, apart from the training code so that the command line can list them without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from pspnet.errors import PspnetError

LIMITS = {
    "epochs": (1, 100_000), "batch": (1, 4096), "crop": (32, 8192), "lr": (1e-8, 100), "head_lr": (1e-3, 1000),
    "momentum": (0, 0.9999), "weight_decay": (0, 1), "power": (0, 10), "aux_weight": (0, 10),
    "smallest_scale": (0.05, 10), "largest_scale": (0.05, 10), "workers": (-1, 256), "seed": (0, 2**31 - 1),
}  # fmt: skip
"""Range of every number; outside it lies a slip of the keyboard."""


@dataclass(frozen=True)
class TrainConfig:
    """What a training run can vary; the command line's flags are made from these fields."""

    epochs: int = field(default=50, metadata={"help": "passes over the training split"})
    batch: int = field(default=8, metadata={"help": "pictures per step"})
    crop: int = field(default=320, metadata={"help": "side of the square crop in pixels"})
    lr: float = field(default=0.01, metadata={"help": "base learning rate of the backbone"})
    head_lr: float = field(default=10.0, metadata={"help": "factor on the learning rate of head and aux head"})
    momentum: float = field(default=0.9, metadata={"help": "SGD momentum"})
    weight_decay: float = field(default=1e-4, metadata={"help": "on all parameters, as in semseg"})
    power: float = field(default=0.9, metadata={"help": "of the poly schedule"})
    aux_weight: float = field(default=0.4, metadata={"help": "weight of the aux loss"})
    smallest_scale: float = field(default=0.5, metadata={"help": "of the random resize"})
    largest_scale: float = field(default=2.0, metadata={"help": "of the random resize"})
    photometric: bool = field(default=True, metadata={"help": "random brightness, contrast, saturation and hue"})
    class_weights: str = field(default="none", metadata={"help": "none, or enet: 1 / ln(1.02 + share)"})
    workers: int = field(default=-1, metadata={"help": "loader processes; -1 chooses by the machine"})
    seed: int = field(default=0, metadata={"help": "of initialisation, order and augmentation"})

    def __post_init__(self) -> None:
        if self.class_weights not in ("none", "enet"):
            raise PspnetError(f"class weights are {self.class_weights!r}: choose none or enet with --class-weights")
        for name, (low, high) in LIMITS.items():
            if not low <= (value := getattr(self, name)) <= high:  # false for NaN, too
                raise PspnetError(f"{name} is {value}: it must be {low:g} to {high:g}. Set --{name.replace('_', '-')}")
        if self.smallest_scale > self.largest_scale:
            raise PspnetError(f"the scales run from {self.smallest_scale} to {self.largest_scale}: set them in order")
