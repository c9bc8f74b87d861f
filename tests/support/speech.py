"""Speech that espeak-ng synthesises: by the library of PyPI's espeakng-loader, or by the program if there is one.

16-bit mono WAV files of 22,050 Hz. None of it is needed elsewhere: tests that want it are skipped without.
"""

from __future__ import annotations

import ctypes
import importlib.util
import multiprocessing
import shutil
import subprocess
import wave
from pathlib import Path

_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1


def available() -> bool:
    """Whether there is something to speak with."""
    return importlib.util.find_spec("espeakng_loader") is not None or shutil.which("espeak-ng") is not None


def say(text: str, path: Path) -> Path:
    """Writes the spoken text, with a second of silence before and after."""
    if shutil.which("espeak-ng") is not None:
        subprocess.run(["espeak-ng", "-v", "en-us", "-s", "150", "-w", path, text], check=True)
    else:
        # In a process of its own: the library keeps what it has once loaded.
        process = multiprocessing.get_context("spawn").Process(target=_synthesise, args=(text, path))
        process.start()
        process.join(60)
        assert process.exitcode == 0
    with wave.open(str(path), "rb") as clip:
        parameters, spoken = clip.getparams(), clip.readframes(clip.getnframes())
    silence = bytes(parameters.framerate * 2)
    with wave.open(str(path), "wb") as clip:
        clip.setparams(parameters)
        clip.writeframes(silence + spoken + silence)
    return path


def _synthesise(text: str, path: Path) -> None:
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT)
    found = bytearray()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def take(samples, count, _events):
        if samples and count > 0:
            found.extend(ctypes.string_at(samples, 2 * count))
        return 0

    library.espeak_SetSynthCallback(take)
    assert rate > 0
    assert library.espeak_SetVoiceByName(b"en-us") == 0
    library.espeak_SetParameter(1, 150, 0)  # words a minute
    content = text.encode() + b"\0"
    assert library.espeak_Synth(content, len(content), 0, 0, 0, _UTF8, None, None) == 0
    with wave.open(str(path), "wb") as clip:
        clip.setnchannels(1)
        clip.setsampwidth(2)
        clip.setframerate(rate)
        clip.writeframes(bytes(found))
