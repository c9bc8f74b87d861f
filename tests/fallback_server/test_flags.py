"""The grammar of the flags, and the table of them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.flag_table import FLAGS, REFUSED, Kind
from fallback_server.flags import Settings, help_text, parse, parse_value

SERVING = set(
    """
    port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support
    enable_batching allow_version_labels_for_unavailable_models force_allow_any_version_labels_for_unavailable_models
    batching_parameters_file enable_per_model_batching_parameters model_config_file
    model_config_file_poll_wait_seconds model_name model_base_path num_load_threads num_unload_threads
    max_num_load_retries load_retry_interval_micros file_system_poll_wait_seconds flush_filesystem_caches
    tensorflow_session_parallelism tensorflow_session_config_file tensorflow_intra_op_parallelism
    tensorflow_inter_op_parallelism use_alts_credentials ssl_config_file platform_config_file
    per_process_gpu_memory_fraction saved_model_tags grpc_channel_arguments grpc_max_threads enable_model_warmup
    num_request_iterations_for_warmup version monitoring_config_file remove_unused_fields_from_bundle_metagraph
    prefer_tflite_model num_tflite_pools num_tflite_interpreters_per_pool enable_signature_method_name_check
    xla_cpu_compilation_enabled enable_profiler thread_pool_factory_config_file mixed_precision skip_initialize_tpu
    enable_grpc_healthcheck_service enable_serialization_as_tensor_content
    """.split()  # noqa: SIM905  a list of quotes is no easier to compare with TensorFlow Serving's
)
"""Of `tensorflow_model_server` 2.20."""


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--port=1"], {"port": 1}),
        (["--port", "1"], {"port": 1}),
        (["--load-retry-interval-micros", "-1"], {"load_retry_interval_micros": -1}),
        (["--rest-api-port=0", "--model_name="], {"rest_api_port": 0, "model_name": ""}),
        (["--port=1", "--port=2"], {"port": 2}),
        (["--enable_batching"], {"enable_batching": True}),
        (["--enable-batching=true", "--mdns=False"], {"enable_batching": True, "mdns": False}),
        (["--enable_batching=1", "--mdns=0"], {"enable_batching": True, "mdns": False}),
        (["--noenable_batching", "--no-mdns"], {"enable_batching": False, "mdns": False}),
        (["--no_enable-model-warmup"], {"enable_model_warmup": False}),
        (["--grpc_channel_arguments=a=1,b=2"], {"grpc_channel_arguments": "a=1,b=2"}),
        (["--grace_s=1"], {"grace_s": 1.0}),
        (["-h"], {"help": True}),
    ],
)
def test_forms(words, values):
    """All forms in which TensorFlow Serving's operators, and others, write flags."""
    parsed = parse(words)
    assert (parsed.values, parsed.faults, parsed.arguments) == (values, (), ())


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--prot=1"], "--prot is no flag; did you mean --port?"),
        (["--zzz"], "--zzz is no flag; --help lists them"),
        (["--no-port"], "--no_port is no flag; did you mean --port?"),
        (["--no-mdns=true"], "--no-mdns takes no value; write --mdns=false"),
        (["--mdns=maybe"], "--mdns must be true or false, got 'maybe'"),
        (["--port"], "--port needs a value: --port=N"),
        (["--model_name", "--mdns"], "--model_name needs a value: --model_name=NAME"),
        (["--port=x"], "--port must be a whole number, got 'x'"),
        (["--port=1.5"], "--port must be a whole number, got '1.5'"),
        (["--grace_s=nan"], "--grace_s must be a number, got nan"),
        (["--log_level=loud"], "--log_level must be one of debug, info, warning, error, got 'loud'"),
        (["--transport=rust"], "--transport must be one of grpcio, native, auto, got 'rust'"),
        (["--noenable_grpc_healthcheck_service"], "--enable_grpc_healthcheck_service=false is not what this server"),
        (["--mixed_precision=bf16"], "--mixed_precision is TensorFlow Serving's, and not one that this server has: "),
    ],
)
def test_faults(words, fault):
    """Each is said by the flag's name, with what was expected and what was given."""
    parsed = parse(words)
    assert len(parsed.faults) == 1
    assert parsed.faults[0].startswith(fault)


def test_all_faults_are_found_and_what_is_no_flag_is_kept():
    """One fault doesn't hide another."""
    parsed = parse(["check", "--port=x", "--mdns", "a b", "--zzz"])
    assert (parsed.arguments, parsed.values, len(parsed.faults)) == (("check", "a b"), {"mdns": True}, 2)


def test_every_flag_of_tensorflow_serving_is_known_by_name():
    """It does what it says, or is refused with the reason; none is both."""
    ours = {name for name, flag in FLAGS.items() if flag.serving}
    assert ours | set(REFUSED) >= SERVING
    assert ours <= SERVING
    assert not ours & set(REFUSED)
    for name in REFUSED:
        assert "TensorFlow Serving's, and not one that this server has: " in parse([f"--{name}"]).faults[0]


def test_help_shows_every_flag_with_its_default():
    """Grouped, and those of TensorFlow Serving marked."""
    text = help_text("fallback-server")
    assert all(f"--{name}" in text for name in FLAGS)
    assert "  * --port=N\n" in text
    assert "(default: 8500)" in text
    assert max(map(len, text.splitlines())) <= 120


def test_later_settings_win_and_defaults_are_not_given():
    """The command line's over the file's."""
    settings = Settings({"port": 1, "host": "a"}, {"port": 2})
    assert (settings.integer("port"), settings.text("host"), settings.number("grace_s")) == (2, "a", 30.0)
    assert settings.given("host")
    assert not settings.given("grace_s")


@given(st.sampled_from(sorted(FLAGS)), st.text(max_size=30))
def test_any_text_is_a_value_or_a_named_fault(name, text):
    """A value is of the flag's type; a fault says the flag."""
    flag = FLAGS[name]
    try:
        value = parse_value(flag, text)
    except ValueError as error:
        assert str(error).startswith(f"--{name}")  # noqa: PT017  either outcome is right
    else:
        assert type(value) is flag.kind.type


@given(st.lists(st.text(max_size=12) | st.sampled_from(["--port", "--mdns", "--no-mdns", "-h", "--", "--port=1", "1"])))
def test_any_command_line_is_read(words):
    """Whatever is written, nothing but faults comes of it."""
    with contextlib.suppress(AssertionError):
        Settings(parse(words).values).integer("port")
    assert all(type(value) is not Kind for value in parse(words).values.values())
