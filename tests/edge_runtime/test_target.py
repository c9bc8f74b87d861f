"""What a version's requests carry."""

from support.edge_models import publish_scale, rows

from edge_runtime import Runtime


def test_a_package_that_does_not_say_its_fingerprint_has_one(tmp_path):
    """Packages of the first format hold their preprocessing and not its digest: it goes with requests all the same."""
    publish_scale(tmp_path, 1, 2.0)
    with Runtime.open(tmp_path, threads=1, poll_interval_s=3600.0) as runtime:
        target = runtime.model("scale").target
        manifest = target.package.manifest
        assert not manifest.preprocess_fingerprint
        assert target.request(rows(1), None, 0.0, None).fingerprint == manifest.preprocess.fingerprint
