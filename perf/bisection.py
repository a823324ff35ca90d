"""The highest rate that is carried whole."""


def bisect(low, high, steps, try_rate):
    """The best of `steps` halvings between the rates `low` and `high`: `try_rate(rate)` returns what arrived, as a rate,
    and the part that was lost, or None instead if that was too much. Returns (rate, loss); (0, 0) if nothing passed."""
    best = (0.0, 0.0)
    for _ in range(steps):
        rate = (low + high) / 2
        found = try_rate(rate)
        if found is None:
            high = rate
            continue
        low = rate
        # What arrived, not what was asked for: on a busy machine the generator falls behind.
        best = max(best, found)
    return best
