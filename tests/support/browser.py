"""A page in a real browser: its picture, and what a script in it finds. Headless Chromium, no network."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

LIMIT_S = 90
"""Of one start; a busy machine takes a few seconds."""

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    # Nothing is to be fetched: whatever is asked for fails at once.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)

_RESULT = "probe-result"


def chromium():
    """Its path; the test is skipped where there is none, unless everything must be run."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None and os.environ.get("EDGE_TESTS_COMPLETE"):
        pytest.fail("Chromium is not installed, and EDGE_TESTS_COMPLETE asks for every test")
    if found is None:
        pytest.skip("Chromium is not installed")
    return found


def _run(html, folder, *flags, dark):
    page = Path(folder) / "page.html"
    page.write_text(html, "utf-8")
    command = [chromium(), *_FLAGS, f"--user-data-dir={folder}/profile", *flags]
    # Blink's own word for it: 0 is dark, 1 is light.
    command.append(f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, timeout=LIMIT_S, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout.decode("utf-8")


def screenshot(html, width, *, dark=False, height=900):
    """The PNG of the page's top."""
    with tempfile.TemporaryDirectory(prefix="browser-") as folder:
        target = Path(folder) / "shot.png"
        _run(html, folder, f"--window-size={width},{height}", f"--screenshot={target}", dark=dark)
        return target.read_bytes()


def probe(html, script, width, *, dark=False):
    """What the expression `script` gives in the page when it stands in a frame of that width, as JSON.

    In a frame, since a window can't be narrower than 500 px. The report's own policy would stop the script: the frame
    is a document of the same origin, and the script stands outside of it.
    """
    inner = json.dumps(html).replace("</", "<\\/").replace("<!--", "<\\!--")
    page = f"""<!DOCTYPE html><meta charset=utf-8><meta name=color-scheme content="light dark">
<body style="margin:0"><iframe id=frame width={width} height=900 style="border:0"></iframe>
<pre id={_RESULT}></pre><script>
const frame = document.getElementById("frame");
frame.onload = () => {{
  const document = frame.contentDocument, window = frame.contentWindow;
  let found;
  try {{ found = {{value: (() => {{ {script} }})()}}; }} catch (error) {{ found = {{error: String(error)}}; }}
  globalThis.document.getElementById("{_RESULT}").textContent = JSON.stringify(found);
}};
frame.srcdoc = {inner};
</script>"""
    with tempfile.TemporaryDirectory(prefix="browser-") as folder:
        size = f"--window-size={max(width, 500)},900"
        dom = _run(page, folder, size, "--virtual-time-budget=5000", "--dump-dom", dark=dark)
    import html as entities

    text = dom.rsplit(f'<pre id="{_RESULT}">', 1)[1].split("</pre>", 1)[0]
    found = json.loads(entities.unescape(text))
    assert "error" not in found, found["error"]
    return found["value"]
