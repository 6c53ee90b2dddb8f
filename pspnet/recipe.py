"""Training settings, apart from the training code so that the command line can list them without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from pspnet.errors import PspnetError


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
        if self.epochs < 1 or self.crop < 32 or not 0 < self.smallest_scale <= self.largest_scale or self.lr <= 0:
            raise PspnetError("epochs must be 1 or more, crop 32 or more, lr positive and the scales ordered")
