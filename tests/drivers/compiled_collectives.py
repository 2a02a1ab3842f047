"""Where a program that XLA compiled communicates: at every run, or in the branches of conditionals.

Reads the text of the compiled module, `jax.jit(...).lower(...).compile().as_text()`.
"""

import re

COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|all-to-all|collective-\w+|ragged-all-to-all|reduce-scatter|send|recv)"
    r"(?:-start)?\("
)
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
CALLS = re.compile(r"(?:to_apply|calls|body|condition)=%?([\w.-]+)")
BRANCHES = re.compile(r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=([\w%.-]+))")


def collectives(text: str) -> tuple[list[str], list[str]]:
    """Collectives that run whenever the program does, and those that run in branches alone."""
    bodies, entry = computations(text)
    branches = {name for body in bodies.values() for name in branches_of(body)}
    in_branches = reached(bodies, branches) - reached(bodies, {entry})
    found: tuple[list[str], list[str]] = ([], [])
    for name, body in bodies.items():
        found[name in in_branches].extend(COLLECTIVE.findall(body))
    return found


def computations(text: str) -> tuple[dict[str, str], str]:
    """The text of each computation of a module, and the name of the one that is run."""
    bodies: dict[str, str] = {}
    entry = name = ""
    for line in text.splitlines():
        if head := COMPUTATION.match(line):
            name = head[2]
            entry = name if head[1] else entry
            bodies[name] = ""
        elif name:
            bodies[name] += line + "\n"
    return bodies, entry


def branches_of(body: str) -> set[str]:
    found = [name for match in BRANCHES.findall(body) for name in match if name]
    return {name.strip(" %") for names in found for name in names.split(",")}


def reached(bodies: dict[str, str], names: set[str]) -> set[str]:
    """`names`, and what they call, but for branches of conditionals at the first of them."""
    done: set[str] = set()
    while names - done:
        done |= names
        names = {called for name in done for called in CALLS.findall(bodies[name])} | names
    return done
