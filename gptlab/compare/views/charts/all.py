"""All charts of a comparison, by name: the HTML report and the figures for a paper draw the same ones."""

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.views.charts.activations import activation_charts
from gptlab.compare.views.charts.chart import Chart
from gptlab.compare.views.charts.curves import learning_curves
from gptlab.compare.views.charts.forest import effects, factorial_effects
from gptlab.compare.views.charts.means import heat_maps
from gptlab.compare.views.charts.sensitivity import sensitivity
from gptlab.compare.views.charts.speed import speed_chart


def comparison_charts(comparison: Comparison) -> dict[str, Chart]:
    """Return the charts by name, without those that have no data."""
    drawn = {"forest": effects(comparison), "curves": learning_curves(comparison), "speed": speed_chart(comparison)}
    drawn |= activation_charts(comparison)
    drawn |= {f"tuning-{i}": sensitivity(tuning, comparison) for i, tuning in enumerate(comparison.tuning)}
    if comparison.factorial is not None:
        drawn["factorial"] = factorial_effects(comparison.factorial, comparison)
        drawn |= {f"means-{i}": figure for i, figure in enumerate(heat_maps(comparison.factorial, comparison))}
    return {name: figure for name, figure in drawn.items() if figure is not None}
