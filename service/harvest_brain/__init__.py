"""HarvestBrain takes partial profits at multiples of the risk first taken, and says why."""

__version__ = "0.1.0"
