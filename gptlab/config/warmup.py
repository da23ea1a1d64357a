"""The length of the warm-up that `schedule.warmup` asks for, which the trainer follows and a report states."""

# The default warm-up is a share of the run, but long enough in steps for AdamW's second moments to settle: a shorter
# one leaves some seeds of a short run stuck. It is never more than MAX_WARMUP_SHARE of the run.
WARMUP_SHARE = 0.05
WARMUP_STEPS = 150
MAX_WARMUP_SHARE = 0.5


def warmup_steps(warmup: float | None, steps: int) -> float:
    """Return the length of the warm-up of a run of `steps`, in steps."""
    if warmup is None:
        return min(max(WARMUP_SHARE * steps, WARMUP_STEPS), MAX_WARMUP_SHARE * steps)
    return warmup if warmup >= 1 else warmup * steps
