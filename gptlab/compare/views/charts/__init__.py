"""Charts of a comparison, each a Vega-Lite view: the HTML report and the static pictures draw the same ones."""
