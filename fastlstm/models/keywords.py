"""Arguments of Keras that this library has not: taken where they say what is done anyhow, refused where they would
change a result.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NEUTRAL: dict[str, tuple[Any, ...]] = {  # what an argument may be
    **dict.fromkeys(
        (
            f"{of}_{kind}"
            for of in ("kernel", "recurrent", "bias", "embeddings", "activity")
            for kind in ("regularizer", "constraint")
        ),
        (None,),
    ),
    **dict.fromkeys(("lora_rank", "lora_alpha", "quantization_config", "noise_shape", "ignore_class"), (None,)),
    **dict.fromkeys(("weight_decay", "loss_scale_factor", "gradient_accumulation_steps", "loss_weights"), (None,)),
    **dict.fromkeys(("weighted_metrics", "steps_per_epoch", "validation_steps", "steps"), (None,)),
    **dict.fromkeys(("use_ema", "sparse", "ragged", "time_major", "optional"), (False, None)),
    "label_smoothing": (0,),
    "axis": (-1,),
    "reduction": ("sum_over_batch_size",),
    "validation_freq": (1,),
    "save_freq": ("epoch",),
    "tensor": (None,),
}
FREE = {  # how something is computed, or called: no result hangs on it
    "autocast", "auto_scale_loss", "ema_momentum", "ema_overwrite_frequency", "implementation", "jit_compile",
    "run_eagerly", "steps_per_execution", "unroll", "use_cudnn",
}  # fmt: skip


def settle(owner: str, given: dict[str, Any]) -> None:
    """Check arguments that `owner` has no use for.

    Raises
    ------
    TypeError
        One that Keras has not either.
    ValueError
        One that would change a result.
    """
    for name, value in given.items():
        if name in FREE:
            continue
        if name not in NEUTRAL:
            raise TypeError(f"{owner} has no argument {name!r}, which was {value!r}")
        plain = isinstance(value, str | int | float | np.generic)  # arrays equal nothing as a whole
        if not any(value is same or (plain and value == same) for same in NEUTRAL[name]):
            raise ValueError(f"{name} of {owner} must be {NEUTRAL[name][0]!r} in this library, but was {value!r}")
