"""The only rooms that speak LLVM: vectors, the register tile, elementary functions, atomics."""
