"""Starts a worker from this very copy of lstm_bench, whatever copy its interpreter would import."""

import importlib.util
import os
import sys

if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.pop(0)  # this file's folder, where `worker` and `machine` would be top-level modules
    spec = importlib.util.spec_from_file_location(
        "lstm_bench", os.path.join(here, "__init__.py"), submodule_search_locations=[here]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["lstm_bench"] = package
    spec.loader.exec_module(package)
    importlib.import_module("lstm_bench.worker").main()
