"""libatoll, by ctypes: the functions of libatoll/atoll.h."""
from __future__ import annotations

import ctypes
import ctypes.util
import os
from typing import Any, List

DIMENSIONS = 8
STATE_SIZE = 4096
OK, PUBLISH, ADD, LOAD = 0, 1, 2, 3
AWAY, REFUSED, INVALID, TIMED_OUT = -1, -2, -3, -4


class AtollError(RuntimeError):
    """The node refuses this job, or cannot be reached; the message says why."""


class Options(ctypes.Structure):
    _fields_ = [("directory", ctypes.c_char_p), ("socket", ctypes.c_char_p),
                ("token", ctypes.c_char_p), ("rank", ctypes.c_uint32), ("world", ctypes.c_uint32),
                ("generation", ctypes.c_uint64), ("timeout_ms", ctypes.c_uint32)]


class Piece(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("flat", ctypes.c_uint32),
                ("dimensions", ctypes.c_uint32), ("shape", ctypes.c_uint64 * DIMENSIONS),
                ("offset", ctypes.c_uint64 * DIMENSIONS),
                ("extent", ctypes.c_uint64 * DIMENSIONS), ("data", ctypes.c_void_p)]


def candidates() -> List[str]:
    """LIBATOLL names the file; else the system's, else that of the checkout this stands in."""
    here = os.path.dirname(os.path.abspath(__file__))
    built = os.path.join(os.path.dirname(os.path.dirname(here)), "build", "release", "lib",
                         "libatoll.so.0")
    named = os.environ.get("LIBATOLL")
    if named:
        return [named]
    found = ctypes.util.find_library("atoll")
    return ([found] if found else []) + ["libatoll.so.0", built]


def load() -> Any:
    problems = []
    for path in candidates():
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            problems.append(str(error))
            continue
        return declare(library)
    raise AtollError("libatoll is not found (make install, or LIBATOLL=FILE): "
                     + "; ".join(problems))


def declare(library: Any) -> Any:
    site, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64
    signatures = {
        "attach": (ctypes.c_int, ctypes.POINTER(Options), ctypes.POINTER(ctypes.c_void_p)),
        "declare": (ctypes.c_int, site, ctypes.POINTER(Piece), size),
        "resume": (ctypes.c_int, site, ctypes.c_void_p, size, site),
        "state": (ctypes.c_int, site, ctypes.c_void_p, ctypes.POINTER(size)),
        "ready": (ctypes.c_int, site),
        "step": (ctypes.c_int, site, number, ctypes.c_double),
        "published": (ctypes.c_int, site),
        "applied": (ctypes.c_int, site),
        "concerns": (ctypes.c_int, site, size),
        "copy_out": (ctypes.c_int, site, size, ctypes.c_void_p),
        "copy_in": (ctypes.c_int, site, size, ctypes.c_void_p),
        "add": (ctypes.c_int, site, size, ctypes.c_void_p),
        "stopping": (ctypes.c_int, site),
        "schedule_factor": (ctypes.c_double, site),
        "inner_steps": (number, site),
        "run_version": (number, site),
        "steps": (number, site),
        "job_steps": (number, site),
        "lost": (number, site),
        "unpublished": (number, site),
        "ahead": (number, site),
        "parameters": (number, site),
        "message": (ctypes.c_char_p, site),
        "detach": (None, site),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, "atoll_" + name)
        function.restype, function.argtypes = result, arguments
    return library
