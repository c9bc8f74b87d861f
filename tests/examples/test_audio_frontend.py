import numpy as np
import pytest
from audio_frontend import CHANNELS, STEP, WINDOW, Frontend

GOLDEN = {
    0: "634 578 621 586 640 584 632 588 638 584 628 586 633 592 640 588 641 589 638 584 "
    "629 588 639 588 644 587 647 594 646 593 647 593 646 593 649 593 643 593 645 593",
    10: "529 412 465 314 448 0 487 408 488 437 487 325 487 351 460 344 430 274 457 318 "
    "479 398 481 353 453 318 483 344 472 318 509 401 507 382 488 399 489 405 483 409",
    20: "408 390 447 177 369 292 361 353 388 0 306 0 351 503 613 480 336 133 325 203 "
    "455 331 436 133 417 274 449 372 466 203 423 248 436 258 437 0 386 0 377 0",
    30: "248 0 0 0 407 292 371 331 325 222 372 0 0 0 0 0 436 533 595 0 "
    "0 0 434 302 328 0 369 133 378 0 401 222 369 248 390 258 351 302 391 0",
}
"""What TensorFlow Lite Micro's frontend (pymicro-features 2.0.2) makes of `sound`, by frame, in units of 10/256."""


def sound():
    """Half a second: noise, and from 0.19 s on a rising tone."""
    time, state, noise = np.arange(8000), 12345, np.empty(8000, np.int64)
    for place in range(8000):
        state = (1103515245 * state + 12345) % 2**31
        noise[place] = (state >> 16) % 2001 - 1000
    tone = (6000 * np.sin(2 * np.pi * (300 + time / 8) * time / 16000) * (time > 3000)).round().astype(np.int64)
    return (noise + tone).astype(np.int16)


def test_features_are_those_of_the_frontend_that_the_models_know():
    """Within a tenth of a logarithm's unit; what is just above silence there may be silent here, and the reverse."""
    found = np.rint(Frontend()(sound()) * 25.6).astype(int)
    for frame, line in GOLDEN.items():
        wanted = np.array([int(one) for one in line.split()])
        loud = wanted > 200
        assert np.abs(found[frame] - wanted)[loud].max() <= 44
        assert np.median(np.abs(found[frame] - wanted)[loud]) <= 3
        assert found[frame][~loud].max(initial=0) <= 280


@pytest.mark.parametrize("block", [1, 77, 160, 480, 5000])
def test_blocks_of_any_size_give_the_same_features(block):
    """The stream is what counts, not how it is cut."""
    frontend, samples = Frontend(), sound()[:3200]
    parts = [frontend(samples[start : start + block]) for start in range(0, len(samples), block)]
    np.testing.assert_array_equal(np.concatenate(parts), Frontend()(samples))


def test_the_first_frame_takes_a_window():
    """Then one each step; silence has no features, and the loudest and lowest samples do no harm."""
    frontend = Frontend()
    assert frontend(np.zeros(WINDOW - 1, np.int16)).shape == (0, CHANNELS)
    assert frontend(np.zeros(1 + 2 * STEP, np.int16)).tolist() == np.zeros((3, CHANNELS)).tolist()
    loudest = np.tile(np.array([-(2**15), 2**15 - 1], np.int16), WINDOW)
    assert np.isfinite(frontend(loudest)).all()
    frontend.reset()
    assert len(frontend(np.zeros(WINDOW, np.int16))) == 1
