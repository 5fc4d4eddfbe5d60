"""``python -m benchmarks`` measures everything; ``python -m benchmarks profile CASE`` lists what a step calls."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: its thread pool reads it once

import torch

from benchmarks import report
from benchmarks.calls import calls_per_step, handwritten_steps, total
from benchmarks.cases import CASES, case_named
from benchmarks.discovery import discovery_time, one_process
from benchmarks.fresh import import_time, long_run_memory, memory_in_fresh_process
from benchmarks.measure import FRAMEWORKS, Figures, installed, loop_of, measure, measure_in_process
from benchmarks.production import measure_production, production_in_process

_ROUNDS = 20
_IMPORTS = {"leyden": "leyden", "lightning": "lightning.pytorch", "ignite": "ignite.engine"}


def main() -> None:
    """Parse the command line and run what it asks for."""
    torch.set_num_threads(1)
    arguments = _parser().parse_args()
    if arguments.command == "profile":
        _profile(arguments.case, arguments.framework)
    elif arguments.command == "worker":
        measure_in_process(arguments.framework, arguments.cases, arguments.stretches, arguments.into)
    elif arguments.command == "production":
        _production(arguments)
    elif arguments.command == "production-worker":
        production_in_process(arguments.framework, arguments.rounds, arguments.into)
    elif arguments.command == "memory-worker":
        print(long_run_memory(arguments.steps))
    elif arguments.command == "discovery-worker":
        print(one_process(arguments.callbacks if arguments.how == "given" else None))
    else:
        _run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="CASE", help=", ".join(names))
    parser.add_argument("--frameworks", nargs="+", choices=list(FRAMEWORKS), default=list(FRAMEWORKS), metavar="NAME")
    parser.add_argument("--stretches", type=int, default=60, help="pairs of 250 steps by which a case is timed (60)")
    parser.add_argument(
        "--steps-only",
        action="store_true",
        help="no production run, imports, discovery, memory, which take two minutes",
    )
    parser.add_argument("--no-file", action="store_true", help="write no file under benchmarks/results")
    commands = parser.add_subparsers(dest="command", metavar="")
    profile = commands.add_parser("profile", help="list what a step of CASE calls, beside the hand-written step")
    profile.add_argument("case", choices=names, metavar="CASE")
    profile.add_argument("--framework", choices=list(FRAMEWORKS), default="leyden")
    worker = commands.add_parser("worker", help="measure one framework in this process")
    worker.add_argument("framework", choices=list(FRAMEWORKS))
    worker.add_argument("--into", type=Path, required=True)
    worker.add_argument("--stretches", type=int, default=60)
    worker.add_argument("--cases", nargs="+", choices=names, default=names)
    production = commands.add_parser("production", help="measure the production run only")
    production.add_argument("--rounds", type=int, default=_ROUNDS, help=f"pairs of runs ({_ROUNDS})")
    worker = commands.add_parser("production-worker", help="measure one framework's production run in this process")
    worker.add_argument("framework", choices=list(FRAMEWORKS))
    worker.add_argument("--into", type=Path, required=True)
    worker.add_argument("--rounds", type=int, default=_ROUNDS)
    memory = commands.add_parser("memory-worker", help="watch the memory of a long run of Leyden in this process")
    memory.add_argument("--steps", type=int, default=100_000)
    discovery = commands.add_parser("discovery-worker", help="make Trainers in this process")
    discovery.add_argument("how", choices=["discovered", "given"])
    discovery.add_argument("callbacks", nargs="*")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    results = report.Results(handwritten_calls=total(calls_per_step(handwritten_steps)))
    frameworks = [name for name in arguments.frameworks if installed(name)]
    for name in frameworks:
        print(f"{name}: {len(arguments.cases)} cases …", flush=True)
        results.figures.append(measure(name, arguments.cases, arguments.stretches))
    if not arguments.steps_only:
        for name in frameworks:
            print(f"{name}: production run …", flush=True)
            results.production[name] = measure_production(name, _ROUNDS)
        for name in frameworks:
            print(f"{name}: import …", flush=True)
            results.imports[name] = import_time(_IMPORTS[name])
        if "leyden" in frameworks:
            print("leyden: discovery …", flush=True)
            results.discovery = discovery_time()
            print("leyden: memory …", flush=True)
            results.memory = memory_in_fresh_process()
    _show(results, arguments.no_file)


def _production(arguments: argparse.Namespace) -> None:
    results = report.Results()
    for name in filter(installed, arguments.frameworks):
        print(f"{name}: production run …", flush=True)
        results.production[name] = run = measure_production(name, arguments.rounds)
        results.figures.append(Figures(name, run.version))
    _show(results, arguments.no_file)


def _show(results: report.Results, no_file: bool) -> None:
    print("\nCPU time over that of the hand-written loop (which takes what stands in brackets)\n")
    print(report.table(results))
    if not no_file:
        print(f"\nwritten to {report.write(results)}")


def _profile(name: str, framework: str) -> None:
    case, loop = case_named(name), loop_of(framework)
    with tempfile.TemporaryDirectory() as folder:
        measured = calls_per_step(lambda batches: loop.run(case, batches, folder))
    by_hand = calls_per_step(handwritten_steps) if case.stage == "fit" else {}
    print(f"{'calls a step':>12} {'by hand':>8}  function")
    for key in sorted(measured.keys() | by_hand.keys(), key=lambda key: (key[0], -measured.get(key, 0.0), key[1])):
        mine, theirs = measured.get(key, 0.0), by_hand.get(key, 0.0)
        sign = "" if mine == theirs else "+" if mine > theirs else "-"
        print(f"{mine:12.2f} {theirs:8.2f} {sign:1} {key[1]}")
    for kind in ("call", "c_call"):
        print(f"{kind}: {total(measured, kind):.2f} a step, by hand {total(by_hand, kind):.2f}")


if __name__ == "__main__":
    main()
