"""A training run's best.pt as a small file to ship: weights in float16, without what only resuming needs.

python weights/pack.py runs/mnv2/best.pt weights/NAME.pt --licence "..." --note "..."

Every reader casts the weights back to float32. The aux head stays, because fine-tuning begins with it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pspnet.checkpoint import read_checkpoint, replace_spec, save_checkpoint
from pspnet.errors import PspnetError
from pspnet.files import sha256_of


def main() -> int:
    """Write the packed checkpoint and print its size and hash."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkpoint")
    options.add_argument("output")
    options.add_argument("--licence", required=True, help="of the training data and so of the weights")
    options.add_argument("--note", default="", help="added to the recipe in the spec")
    args = options.parse_args()
    try:
        spec, raw = read_checkpoint(args.checkpoint)
        recipe = {**spec.recipe, "note": args.note} if args.note else spec.recipe
        packed = {
            name: value.half() if value.is_floating_point() and value.ndim > 1 else value  # batch norm stays float32
            for name, value in raw["model"].items()
        }
        save_checkpoint(args.output, replace_spec(spec, licence=args.licence, recipe=recipe), packed)
    except PspnetError as error:
        print(f"pack.py: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB, sha256 {sha256_of(args.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
