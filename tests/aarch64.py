"""The library as on AArch64: kernels compiled for such a processor, and run by an emulator of one, unicorn.

    PYTHONPATH=tests pytest -p aarch64 tests/test_layer.py

Everything that workers are made of runs emulated: packing, products, cells, whole passes, steps. They read and write
this process's own memory, which the emulator sees at the same addresses. Parts of a call run one after another, since
an emulated processor is one; so threads that should meet give up, and the call is done on one. Processes that a test
starts are not emulated.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import sys
import threading
from functools import cache

import unicorn
from llvmlite import binding
from unicorn import arm64_const as arm

TRIPLE = {"neoverse-n1": "aarch64-unknown-linux-gnu", "apple-m1": "arm64-apple-macosx"}
CPU = "neoverse-n1"
PAGE, CHUNK = 4096, 2**20
STACK, STACK_BYTES, END = 0x10000, 2**20, 0x1000  # addresses at which a process has nothing
MEMORY = """
define ptr @memcpy(ptr %to, ptr %from, i64 %n) {
entry:
  br label %test
test:
  %k = phi i64 [0, %entry], [%next, %loop]
  %more = icmp ult i64 %k, %n
  br i1 %more, label %loop, label %done
loop:
  %source = getelementptr i8, ptr %from, i64 %k
  %target = getelementptr i8, ptr %to, i64 %k
  %byte = load volatile i8, ptr %source
  store volatile i8 %byte, ptr %target
  %next = add i64 %k, 1
  br label %test
done:
  ret ptr %to
}

define ptr @memset(ptr %to, i32 %value, i64 %n) {
entry:
  %byte = trunc i32 %value to i8
  br label %test
test:
  %k = phi i64 [0, %entry], [%next, %loop]
  %more = icmp ult i64 %k, %n
  br i1 %more, label %loop, label %done
loop:
  %target = getelementptr i8, ptr %to, i64 %k
  store volatile i8 %byte, ptr %target
  %next = add i64 %k, 1
  br label %test
done:
  ret ptr %to
}

define i64 @syscall(i64 %number) {
  ret i64 0
}

define i32 @sched_yield() {
  ret i32 0
}

define i32 @sched_getcpu() {
  ret i32 -1
}
"""  # what workers call of a C library; volatile, or LLVM would see in the loops the functions that they are


def machine_for(cpu: str, **options: object) -> binding.TargetMachine:
    """LLVM's description of a processor."""
    return binding.Target.from_triple(TRIPLE[cpu]).create_target_machine(cpu=cpu, opt=3, **options)


def retarget(module: binding.ModuleRef, machine: binding.TargetMachine) -> binding.ModuleRef:
    """A module that was made on this machine, for another."""
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    return module


def _package() -> None:
    """Begin to import fastlstm without its top module, which would ask for this machine's registers."""
    spec = importlib.util.find_spec("fastlstm")
    sys.modules["fastlstm"] = importlib.util.module_from_spec(spec)


def compile_for_it() -> None:
    """Make the library compile as for AArch64; to be called before it is imported."""
    _package()
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    from fastlstm.runtime import machine

    machine.processor = lambda: machine.Processor(TRIPLE[CPU], CPU, "")

    from numba.core.registry import cpu_target

    from fastlstm.runtime import compiling

    compiling.processor = lambda: cpu_target.target_context.codegen().magic_tuple()  # what it checks that Numba has


class Emulator:
    """A processor that runs functions in this process's memory."""

    def __init__(self) -> None:
        self._cpu = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, arm.UC_CPU_ARM64_MAX)
        self._cpu.mem_map(STACK, STACK_BYTES)
        self._cpu.mem_map(END, PAGE)
        self._cpu.reg_write(arm.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # vectors may be used
        self._cpu.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED, self._show)
        self._seen: set[int] = set()
        self._one = threading.Lock()

    def call(self, function: int, part: int, frame: int) -> None:
        """Run `void function(part, frame)`."""
        with self._one:
            for register, value in (
                (arm.UC_ARM64_REG_X0, part),
                (arm.UC_ARM64_REG_X1, frame),
                (arm.UC_ARM64_REG_SP, STACK + STACK_BYTES),
                (arm.UC_ARM64_REG_X30, END),
            ):
                self._cpu.reg_write(register, value)
            self._cpu.emu_start(function, END)

    def _show(self, cpu: object, access: int, address: int, size: int, value: int, data: object) -> bool:
        """Let the processor see the memory around an address, as far as this process has it."""
        with open("/proc/self/maps") as file:
            ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in file]
        around = next(((first, end) for first, end in ranges if first <= address < end), (0, 0))
        first, end = max(around[0], address & -CHUNK), min(around[1], (address & -CHUNK) + CHUNK)
        new = [page for page in range(first, end, PAGE) if page not in self._seen]
        self._seen.update(new)
        while new:
            count = next((k for k, page in enumerate(new) if page != new[0] + k * PAGE), len(new))
            self._cpu.mem_map_ptr(new[0], count * PAGE, unicorn.UC_PROT_ALL, ctypes.c_void_p(new[0]))
            new = new[count:]
        return address & -PAGE in self._seen


def emulate() -> None:
    """Make the library run its kernels on an emulator; to be called before it is imported."""
    compile_for_it()
    from fastlstm.runtime import compiling, linking, machine, region, workers

    emulator = Emulator()

    @cache
    def engine() -> binding.ExecutionEngine:
        memory = retarget(binding.parse_assembly(MEMORY), machine_for(CPU))
        return binding.create_mcjit_compiler(memory, machine_for(CPU, codemodel="jitdefault", jit=True))

    def emit(self: linking.Emitted, function: str, symbol: str, returns: bool = False) -> bytes:
        described = machine_for(CPU, codemodel="large")
        return described.emit_object(retarget(self.module(function, symbol, returns), described))

    @cache
    def made(name: str, variant: object) -> workers.Worker:
        symbol = f"{name}_{hashlib.sha256(repr((variant, machine.processor())).encode()).hexdigest()[:24]}"
        code = workers.kernels.load(symbol)
        if code is None:
            code = compiling.compiled(name, variant, symbol)
            workers.kernels.save(symbol, code)
        address = machine.load(code, symbol)

        def run(part: int, frame: int, at: int = 0, *words: int) -> None:
            for k, word in enumerate(words):
                ctypes.c_int64.from_address(frame + at + 8 * k).value = word
            emulator.call(address, part, frame)

        return workers.Worker(workers._with_addresses(run), address)

    def enter(threads: int, parts: int, worker: int, frame: int, spins: int) -> None:
        for part in range(parts):
            emulator.call(worker, part, frame)

    machine._engine, linking.Emitted.emit, workers._made = engine, emit, made
    workers.LAYOUT_HOLDS = False  # what Python calls is this processor's
    region.start = lambda: region.Region("emulated", 4, enter)
    package = sys.modules["fastlstm"]
    package.__spec__.loader.exec_module(package)


def pytest_configure(config: object) -> None:
    """Pytest's hook of a plugin."""
    emulate()
