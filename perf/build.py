"""What is measured and what measures with it, built from this tree."""
import functools
import os
import pathlib
import re
import shutil
import subprocess

from lab import TrialFailed

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PROGRAMS = {"farside": ("release/farside", "--bin"), "paced": ("release/examples/paced", "--example"),
            "remembered": ("release/examples/remembered", "--example")}


@functools.cache
def program(name, say):
    """The path of one of PROGRAMS, built. cargo decides whether it is fresh, so a stale one is never measured."""
    path, kind = PROGRAMS[name]
    program = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / path
    cargo = shutil.which("cargo") or shutil.which("cargo", path=os.path.expanduser("~/.cargo/bin"))
    if not cargo:
        if program.exists():
            say(f"no cargo here: measuring with the release build of {name} as it is")
            return str(program)
        raise TrialFailed(f"no release build of {name}, and no cargo to build it with")
    say(f"building {name} (release)")
    try:
        done = subprocess.run([cargo, "build", "--release", "--locked", kind, name], cwd=REPOSITORY,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800)
    except subprocess.TimeoutExpired:
        raise TrialFailed("cargo build did not end within 30 minutes") from None
    if done.returncode:
        error = re.search(r"^error.*", done.stderr, re.M)
        raise TrialFailed("cargo build failed: " + (error[0] if error else "see cargo build --release"))
    return str(program)
