from convsmith.optimization import Optimization
from convsmith.report.rendering import html


@html.register
def _(result: Optimization) -> str:
    return "<!doctype html>"
