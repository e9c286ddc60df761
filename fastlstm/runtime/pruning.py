"""Branches on a variant are decided before Numba gives anything a type: what is not taken is not compiled."""

from __future__ import annotations

from typing import Any

from numba.core import ir
from numba.core.compiler_machinery import FunctionPass, register_pass


@register_pass(mutates_CFG=False, analysis_only=False)
class ConstantAttributes(FunctionPass):
    """Writes the value in the place of `v.attribute`, where v is an argument whose type holds its value."""

    _name = "constant_attributes"

    def __init__(self) -> None:
        FunctionPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        """Numba's own pass over dead branches comes later."""
        known = {}
        for block in state.func_ir.blocks.values():
            for statement in block.find_insts(ir.Assign):
                value = statement.value
                if isinstance(value, ir.Arg) and isinstance(
                    constant := getattr(state.args[value.index], "value", None), tuple
                ):
                    known[statement.target.name] = constant
        changed = False
        for block in state.func_ir.blocks.values() if known else ():
            for statement in block.find_insts(ir.Assign):
                value = statement.value
                if isinstance(value, ir.Expr) and value.op == "getattr" and value.value.name in known:
                    found = getattr(known[value.value.name], value.attr, None)
                    if isinstance(found, bool):
                        statement.value = ir.Const(found, statement.loc)
                        state.func_ir._definitions[statement.target.name] = [statement.value]
                        changed = True
        return changed
