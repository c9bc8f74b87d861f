"""Flags and files as the server's options."""

import re

import pytest
from support.rest_stand import halves, standing
from support.tls_files import CERTIFICATE, CERTIFICATE_SHA256, KEY

from fallback_server.config import ConfigInvalid, NetworkOptions, TlsFiles, metrics_path_fault
from fallback_server.core.errors import ConfigRefused
from fallback_server.flag_table import DEFAULT_METRICS_PATH
from fallback_server.flags import parse
from fallback_server.settings import options_of, read


def options(*flags):
    return options_of(parse(flags))


def test_every_flag_lands_where_it_belongs(tmp_path):
    """In the unit of the option."""
    made = options(
        f"--model_repository={tmp_path}",
        "--host=0.0.0.0",
        "--insecure",
        "--port=0",
        "--rest_api_port=0",
        "--rest_api_timeout_in_ms=1500",
        "--rest_api_num_threads=3",
        "--rest_api_enable_cors_support",
        "--grpc_max_threads=4",
        "--workers=3",
        "--grpc_socket_path=/tmp/a.sock",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=2000,grpc.name=x",
        "--max_message_bytes=4096",
        "--allow_remote_control",
        "--allow_package_delivery=false",
        "--package_repository=/tmp",
        "--mdns_interfaces=eth0, 192.168.1.7",
        "--no-mdns",
        "--model_config_file_poll_wait_seconds=2",
        "--file_system_poll_wait_seconds=0.5",
        "--allow_version_labels_for_unavailable_models",
        "--num_load_threads=0",
        "--load_retry_interval_micros=-1",
        "--noenable_model_warmup",
        "--saved_model_tags=serve,gpu",
        "--executor=tensorflow",
        "--tensorflow_session_parallelism=3",
        "--grace_s=2",
    )
    network, source = made.network, made.source
    assert (network.host, network.port, network.rest_port, network.rest_timeout_s) == ("0.0.0.0", 0, None, 1.5)
    assert (network.rest_threads, network.grpc_threads, network.cors, network.mdns) == (3, 4, True, False)
    assert network.workers == 3
    assert str(network.socket_path) == "/tmp/a.sock"
    assert network.channel_arguments == (("grpc.max_connection_age_ms", 2000), ("grpc.name", "x"))
    assert (network.max_message_bytes, network.allow_remote_control) == (4096, True)
    assert (network.allow_package_delivery, str(source.package_repository)) == (False, "/tmp")
    assert network.mdns_interfaces == ("eth0", "192.168.1.7")
    assert (source.config_poll_s, source.poll_wait_s, source.allow_labels_for_unavailable) == (2.0, 0.5, True)
    assert (made.manager.num_load_threads, made.manager.load_retry_interval_s) == (1, 0.0)
    assert (made.warm_up, made.grace_s, made.metrics_path) == (False, 2.0, "/monitoring/prometheus/metrics")
    assert (made.saved_model.tags, made.executor) == (("serve", "gpu"), "tensorflow")
    assert (made.saved_model.intra_op_parallelism, made.saved_model.inter_op_parallelism) == (3, 3)


@pytest.mark.parametrize(
    ("flags", "port"),
    [([], 8501), (["--port=0"], 0), (["--port=0", "--rest_api_port=7"], 7), (["--rest_api_port=0"], None)],
)
def test_port_of_rest(tmp_path, flags, port):
    """TensorFlow Serving's container's unless told; a free one beside a free port of gRPC, so that two can start."""
    assert options(f"--model_repository={tmp_path}", *flags).network.rest_port == port


def test_base_path_names_one_model(tmp_path, monkeypatch):
    """Its name, or TensorFlow Serving's default; its path made absolute; its versions those of the policy."""
    assert options("--model_name=a", f"--model_base_path={tmp_path}").source.models == {"a": tmp_path}
    monkeypatch.chdir(tmp_path.parent)
    (config,) = options(f"--model_base_path={tmp_path.name}", "--model_version_policy=latest(2)").source.configs
    assert (config.name, config.base_path, str(config.version_policy)) == ("default", tmp_path, "latest(2)")


def test_every_start_has_an_id_of_its_own(tmp_path):
    """Made up unless given."""
    first, second = (options(f"--model_base_path={tmp_path}").network.server_id for _ in range(2))
    assert first != second
    assert options(f"--model_base_path={tmp_path}", "--server_id=a-1").network.server_id == "a-1"


def test_batching_flags_win_over_the_file(tmp_path):
    """The file's values, but for those that are given as flags too."""
    file = tmp_path / "batching.pbtxt"
    file.write_text("max_batch_size { value: 8 } batch_timeout_micros { value: 500 } thread_pool_name { value: 'b' }")
    where = f"--model_repository={tmp_path}"
    made = options(where, f"--batching_parameters_file={file}", "--batch_timeout_micros=9", "--num_batch_threads=3")
    batching = made.batching
    assert (batching.max_batch_size_rows, batching.batch_timeout_us, batching.num_batch_threads) == (8, 9, 3)
    assert batching.thread_pool_name == "b"
    batching = options(where, "--allowed_batch_sizes=2,4").batching
    assert (batching.allowed_batch_sizes, batching.max_batch_size_rows) == ((2, 4), 4)
    assert options(where, "--enable_per_model_batching_parameters").batching.per_model


def test_flags_of_batches(tmp_path):
    """Each arrives; and where nobody says how large batches may be, pieces of large requests may be larger."""
    where = f"--model_repository={tmp_path}"
    said = ("--noenable_large_batch_splitting", "--pad_variable_length_inputs", "--allowed_lengths=8,64")
    batching = options(where, *said, "--target_latency_ms=12.5", "--max_inline_us=0", "--max_batch_size=8").batching
    assert (batching.enable_large_batch_splitting, batching.pad_variable_length_inputs) == (False, True)
    assert (batching.allowed_lengths, batching.target_latency_ms, batching.max_inline_us) == ((8, 64), 12.5, 0)
    assert (batching.bulk_rows, options(where).batching.bulk_rows) == (0, 1024)
    for flag, fault in (
        ("--allowed_lengths=8", "--allowed_lengths needs pad_variable_length_inputs"),
        ("--target_latency_ms=-1", "--target_latency_ms must be from 0 to 3600000, got -1.0"),
        ("--max_gather_us=1000001", "--max_gather_us must be at most 1000000, got 1000001"),
        ("--max_inline_us=100001", "--max_inline_us must be at most 100000, got 100001"),
    ):
        with pytest.raises(ConfigInvalid, match=fault):
            options(where, flag)


def test_files_of_tensorflow_serving(tmp_path):
    """Models, monitoring and TLS, each out of its file."""
    (tmp_path / "models.config").write_text(f"model_config_list {{ config {{ name: 'a' base_path: '{tmp_path}' }} }}")
    (tmp_path / "monitoring.config").write_text("prometheus_config { enable: true path: '/m' }")
    (tmp_path / "ssl.config").write_text(f"server_key: {KEY.decode()!r} server_cert: {CERTIFICATE.decode()!r}")
    made = options(
        f"--model_config_file={tmp_path}/models.config",
        f"--monitoring_config_file={tmp_path}/monitoring.config",
        f"--ssl_config_file={tmp_path}/ssl.config",
    )
    assert made.source.models == {"a": tmp_path}
    assert made.source.config_file == tmp_path / "models.config"
    assert made.metrics_path == "/m"
    assert made.network.tls.fingerprint == CERTIFICATE_SHA256
    assert "PRIVATE" not in repr(made)


def test_toml_gives_flags_and_models_and_the_command_line_wins(tmp_path):
    """One file for all; its models are read again from it."""
    file = tmp_path / "server.toml"
    file.write_text("port = 7\nrest-api-port = 8\ngrace_s = 3\n[models.a]\nbase_path = 'a'\n")
    made = options(f"--config={file}", "--port=9")
    assert (made.network.port, made.network.rest_port, made.grace_s) == (9, 8, 3.0)
    assert (made.source.models, made.source.config_file) == ({"a": tmp_path / "a"}, file)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "nothing to serve: give --model_repository=DIR or --model_base_path=DIR"),
        (["--model_name=a"], "--model_name needs --model_base_path=DIR"),
        (
            ["--model_name=a", "--model_config_file=/dev/null"],
            "--model_name needs --model_base_path=DIR; --model_config_file says it of each of its models: leave",
        ),
        (
            ["--model_name=a", "--model_base_path=/", "--model_config_file=/dev/null"],
            "models are listed in one place; TensorFlow Serving would pass over --model_name and --model_base_path",
        ),
        (
            ["--model_base_path=s3://bucket/x", "--model_name=a"],
            "--model_base_path: s3://bucket/x is a URI, and remote file systems are not read here: mount it, sync",
        ),
        (
            ["--model_repository=file:///srv/m"],
            "--model_repository: file:///srv/m is a URI, and a path is expected: /srv",
        ),
        (["--model_version_policy=all"], "--model_version_policy needs --model_base_path=DIR"),
        (["--model_base_path=/", "--model_version_policy=newest"], "--model_version_policy must be latest(N), all, or"),
        (["--model_base_path=/", "--model_version_policy=latest(0)"], "num_versions must be at least 1, got 0"),
        (["--model_repository=/nonexistent"], "--model_repository=/nonexistent is no directory"),
        (["--model_base_path=/nonexistent"], "--model_base_path=/nonexistent is no directory"),
        (["--model_base_path=/", "--model_name="], "--model_name must be a name without slashes"),
        (["--model_base_path=/", "--model_config_file=/x"], "--model_base_path and --model_config_file can't be used"),
        (["--model_config_file=/nonexistent"], "/nonexistent: No such file or directory"),
        (["--config=/nonexistent"], "/nonexistent: No such file or directory"),
        (["--port=70000"], "--port must be at most 65535, got 70000"),
        (["--port=-1"], "--port must be at least 0, got -1"),
        (["--port=5", "--rest_api_port=5"], "--rest_api_port must be another than --port, both are 5"),
        (["--rest_api_timeout_in_ms=0"], "--rest_api_timeout_in_ms must be over 0 and at most 86400000, got 0"),
        (["--grpc_channel_arguments=a"], "--grpc_channel_arguments must be KEY=VALUE with commas, got 'a'"),
        (["--grpc_channel_arguments=a=2147483648"], "=a must be from -2147483648 to 2147483647, got 2147483648"),
        (["--grpc_channel_arguments=a=\udcff"], "--grpc_channel_arguments='a=\\udcff' is no UTF-8"),
        (["--mdns_interfaces=all,eth0"], "--mdns_interfaces must be default, all, or names and addresses"),
        (["--max_message_bytes=2147483648"], "--max_message_bytes must be at most 2147483647, got 2147483648"),
        (["--max_batch_size=0"], "--max_batch_size must be at least 1, got 0"),
        (["--allowed_batch_sizes=4,2"], "--allowed_batch_sizes must be ascending"),
        (["--allowed_batch_sizes=4,x"], "--allowed_batch_sizes must be whole numbers with commas, got '4,x'"),
        (["--batch_timeout_micros=-1"], "--batch_timeout_micros must be at least 0, got -1"),
        (["--batching_parameters_file=/x", "--enable_batching=false"], "--batching_parameters_file is set without"),
        (["--num_load_threads=-1"], "--num_load_threads must be at least 0, got -1"),
        (["--num_load_threads=5000"], "--num_load_threads must be at most 1024, got 5000"),
        (["--max_start_wait_s=-1"], "--max_start_wait_s must be at least 0, got -1.0"),
        (["--grace_s=-1"], "--grace_s must be at least 0, got -1.0"),
        (["--grace_s=inf"], "--grace_s must be at most 86400, got inf"),
        (["--file_system_poll_wait_seconds=inf"], "--file_system_poll_wait_seconds must be at most 86400, got inf"),
        (["--file_system_poll_wait_seconds=-1"], "--file_system_poll_wait_seconds must be at least 0, got -1.0"),
        (
            ["--tensorflow_inter_op_parallelism=9999"],
            "--tensorflow_inter_op_parallelism must be at most 1024, got 9999",
        ),
        (["--tensorflow_intra_op_parallelism=-1"], "--tensorflow_intra_op_parallelism must be at least 0, got -1"),
        (["--tensorflow_session_parallelism=1", "--tensorflow_intra_op_parallelism=1"], "give it, or these"),
        (["--saved_model_tags="], "--saved_model_tags must name a tag"),
        (["--server_id=a b"], "--server_id: server id 'a b'"),
        (["stray"], "'stray' is no flag; flags begin with --"),
    ],
)
def test_refusals_name_flag_bound_and_value(flags, text):
    """One line that says what is wrong."""
    if not any(flag.startswith(("--model_", "--config")) for flag in flags) and flags:
        flags = ["--model_repository=/", *flags]
    with pytest.raises(ConfigInvalid, match=re.escape(text)) as raised:
        options(*flags)
    assert isinstance(raised.value, ConfigRefused)
    assert len(raised.value.faults) == 1, raised.value.faults


def test_all_faults_are_found_at_once(tmp_path):
    """Of the command line, of the files and of every group."""
    file = tmp_path / "server.toml"
    file.write_text("prot = 1\nport = 'x'\n[models.a]\nbase_path = 1\n")
    reading = read(parse([f"--config={file}", "--zzz", "--max_batch_size=0", "--grace_s=x", "--num_load_threads=-2"]))
    assert reading.options is None
    for text in (
        "--prot is no flag",
        "--port must be",
        "models.a.base_path",
        "--zzz",
        "--max_batch_size",
        "--grace_s",
        "--num_load_threads",
    ):
        assert sum(text in fault for fault in reading.faults) == 1, (text, reading.faults)


def test_one_group_has_as_many_faults_as_it_has(tmp_path):
    """One flag at fault doesn't hide the next."""
    flags = "port=-1 rest_api_port=-1 host= max_message_bytes=1 rest_api_timeout_in_ms=0 num_load_threads=-1 "
    flags += "max_num_load_retries=-1 max_batch_size=0 batch_timeout_micros=-1 max_unpacked_bytes=0 unpack_dir=/no "
    flags += "tensorflow_intra_op_parallelism=-1 tensorflow_inter_op_parallelism=-1"
    reading = read(parse([f"--model_repository={tmp_path}", *(f"--{flag}" for flag in flags.split())]))
    told = sorted(re.split(r"[ =]", fault)[0] for fault in reading.faults)
    assert told == sorted(f"--{flag.partition('=')[0]}" for flag in flags.split())


def test_models_of_a_faulty_list_that_are_sound_are_there_to_be_checked(tmp_path):
    """Every fault of the list is told, and what else is wrong with the other models can be looked for."""
    file = tmp_path / "models.config"
    file.write_text(
        "model_config_list { config { name: 'a' base_path: '/a' } config { name: 'b' base_path: 'b' } "
        "config { base_path: '/c' } config { name: 'a' base_path: '/a' } }"
    )
    reading = read(parse([f"--model_config_file={file}"]))
    assert [config.name for config in reading.configs] == ["a"]
    assert [fault.removeprefix(f"{file}: ") for fault in reading.faults] == [
        "Expected model b to have an absolute path or URI; got base_path()=b",
        "model without a name: a model of the config list has no name; its base_path is /c",
        "Illegal to list model a multiple times in config list",
    ]


def test_very_many_faults_are_told_by_their_number():
    """The first fifty, and how many there are beside them."""
    few, many = (ConfigInvalid(*map(str, range(count))) for count in (51, 52))
    assert few.faults[-1] == "50"
    assert many.faults[-2:] == ("49", "and 2 more")
    assert ConfigInvalid(*many.faults).faults == many.faults


def test_metrics_are_given_out_where_nothing_else_is(tmp_path):
    """A path that REST answers itself is refused, in any case of letters, and one that is no plain path."""
    with standing({("half", 1): halves()}, tmp_path, metrics_path="/m") as stand:
        routed = {re.sub(r"\{\w+\}", "x", route.path) for route in stand.server.app.routes.routes} - {"/m"}
    assert len(routed) > 20
    for path in (*routed, "/V1/models/x", "/v2/", "/a b", "/m?x", "/{model}", "//", "m", ""):
        assert metrics_path_fault(path), path
    for path in ("/m", "/metrics/", DEFAULT_METRICS_PATH, "/v1x", "/a/v2/b"):
        assert metrics_path_fault(path) == ""
    (tmp_path / "monitoring.config").write_text("prometheus_config { enable: true path: '/v1/models/x' }")
    with pytest.raises(ConfigInvalid, match=r"monitoring.config: prometheus_config.path must be another than"):
        options(f"--model_repository={tmp_path}", f"--monitoring_config_file={tmp_path}/monitoring.config")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"key_pem": b"x"}, "server_key must be PEM text"),
        ({"certificate_pem": b""}, "server_cert must be PEM text"),
        ({"client_ca_pem": b"/etc/ca.pem"}, "custom_ca must be PEM text"),
        ({"client_verify": True}, "client_verify needs custom_ca"),
    ],
)
def test_tls_that_is_no_pem(change, text):
    """The commonest slip is a path in place of the text."""
    with pytest.raises(ConfigInvalid, match=text):
        TlsFiles(**{"key_pem": KEY, "certificate_pem": CERTIFICATE, **change})


def test_fingerprint_is_that_of_the_first_certificate():
    """The server's own comes first, then those that signed it."""
    chain = b"text before\n" + CERTIFICATE + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert TlsFiles(key_pem=KEY, certificate_pem=chain).fingerprint == CERTIFICATE_SHA256
    other = b"-----BEGIN SOMETHING-----\nAAAA\n-----END SOMETHING-----\n"
    assert TlsFiles(key_pem=KEY, certificate_pem=other).fingerprint == ""


def test_a_port_that_is_free_may_be_asked_for_twice():
    """0 is no port that both could claim."""
    assert NetworkOptions(port=0, rest_port=0).rest_port == 0
