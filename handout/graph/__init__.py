"""Graphs: what the user writes, validated and numbered. Knows costs, and nothing of hosts, links or time."""

from handout.graph.arg import Arg
from handout.graph.compile import Given, Outs
from handout.graph.function import Function, function
from handout.graph.graph import Graph, Runnable, as_graph
from handout.graph.marks import options
from handout.graph.options import Options, TaskOptions
from handout.graph.output import Input, NotAValueError, Output, Shelf, Stored, StoredObject, later
from handout.graph.path import Path, apply_path
from handout.graph.placeholder import Inline, Loaded, Placeholder, Slot, Taken
from handout.graph.plan import GivenValue, Kept, Pick, Plan, Value

__all__ = [
    "Arg",
    "Function",
    "Given",
    "GivenValue",
    "Graph",
    "Inline",
    "Input",
    "Kept",
    "Loaded",
    "NotAValueError",
    "Options",
    "Output",
    "Outs",
    "Path",
    "Pick",
    "Placeholder",
    "Plan",
    "Runnable",
    "Shelf",
    "Slot",
    "Stored",
    "StoredObject",
    "Taken",
    "TaskOptions",
    "Value",
    "apply_path",
    "as_graph",
    "function",
    "later",
    "options",
]
