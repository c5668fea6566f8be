"""Executes the blocks of a page as the cells of a notebook, in a real kernel.

It reads the cells from standard input, writes them to ``notebook.ipynb``, executes this notebook in place, and prints
for each cell what the cell has printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook


def main() -> None:
    """Execute the notebook. If a cell fails, this process fails with the traceback of the cell."""
    path = Path("notebook.ipynb")
    nbformat.write(new_notebook(cells=[new_code_cell(code) for code in json.load(sys.stdin)]), path)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": "."}})
    try:
        client.execute()
    finally:
        nbformat.write(notebook, path)
    outputs = [cell.outputs for cell in notebook.cells]
    print(json.dumps(["".join(each.text for each in cell if each.output_type == "stream") for cell in outputs]))


if __name__ == "__main__":
    main()
