"""The graph that a user builds, and the plan that a run executes.

No module in this folder contacts a host or reads a clock.
"""

from handout.graph.arg import Arg
from handout.graph.compile import GivenValues, Outs
from handout.graph.function import Function, function
from handout.graph.function_options import Options, TaskOptions
from handout.graph.given_values import GivenValue
from handout.graph.graph import Graph, Runnable, as_graph
from handout.graph.objects import Pick, Value
from handout.graph.options_decorator import options
from handout.graph.output import Input, Output, later
from handout.graph.plan import Plan

__all__ = [
    "Arg",
    "Function",
    "GivenValue",
    "GivenValues",
    "Graph",
    "Input",
    "Options",
    "Output",
    "Outs",
    "Pick",
    "Plan",
    "Runnable",
    "TaskOptions",
    "Value",
    "as_graph",
    "function",
    "later",
    "options",
]
