"""From features and labels to predictions and metrics; the only code that fits a probe or chooses a setting.

``protocol`` decides what is fitted on what and calls the rest; ``probe``, ``neighbours``, ``zero_shot`` and
``retrieval`` turn vectors into scores; ``metrics`` turns scores into figures; ``resample`` says how sure they are.
"""
