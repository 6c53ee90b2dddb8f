"""The 24 faults: what is required of each, which tests assert it, and what stands in for hardware that is not here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One row. tests: FILE::FUNCTION below tests/. hardware: what of it needs hardware, and what replaces that here."""

    number: int
    name: str
    required: str
    tests: tuple[str, ...]
    hardware: str = ""


CAMERA = "test_runtime_camera_faults.py"
FAULTS = (
    Fault(
        1, "camera unplugged", "not running within 1 s, outputs INVALID, tried again under its stable id",
        (f"{CAMERA}::test_a_camera_that_breaks_off_is_noticed_and_comes_back",
         "test_runtime_capture_v4l2.py::test_unplugging_is_a_disconnection_at_once",
         "test_runtime_capture_v4l2.py::test_camera_is_found_again_under_another_number"),
        "a USB camera: a scripted camera, and a V4L2 driver in a library that is loaded before libc",
    ),
    Fault(
        2, "back in another size", "new memory, label maps of the new size",
        ("test_runtime_live_faults.py::test_real_cameras_with_faults_are_told_apart_and_a_healthy_one_goes_on",
         "test_runtime_camera.py::test_larger_pictures_get_new_memory_and_the_size_is_told"),
    ),
    Fault(
        3, "stall, the connection stays open", "STALLED within 1 s, opened again after 2 s",
        (f"{CAMERA}::test_a_stall_is_noticed_within_a_second_and_ends_with_the_first_picture",
         f"{CAMERA}::test_a_camera_that_stays_silent_is_opened_again",
         "test_runtime_camera_rtsp.py::test_a_stream_that_stalls_goes_on_or_is_opened_again"),
    ),
    Fault(
        4, "reset, refused, 401, 404, codec", "causes are told apart; passwords are not tried often",
        ("test_runtime_camera_rtsp.py::test_a_server_that_goes_away_and_comes_back",
         "test_runtime_camera_rtsp.py::test_a_connection_that_is_cut_is_opened_again",
         "test_runtime_camera_rtsp.py::test_what_is_refused_is_told_apart_and_no_secret_is_shown",
         f"{CAMERA}::test_a_refused_password_is_tried_rarely"),
    ),
    Fault(
        5, "accepts and never answers", "an open has a deadline of its own",
        (f"{CAMERA}::test_a_camera_that_answers_no_open_is_given_up_by_its_deadline",
         "test_runtime_rtsp_probe.py::test_server_that_accepts_and_never_answers_is_a_timeout"),
    ),
    Fault(
        6, "a native read never returns", "the process is ended and replaced",
        (f"{CAMERA}::test_a_read_that_never_returns_costs_the_process_and_not_the_camera",
         "test_runtime_camera_stop.py::test_it_stops_in_time_in_every_state_and_leaves_nothing"),
    ),
    Fault(
        7, "damaged pictures", "dropped and counted, never published",
        (f"{CAMERA}::test_damaged_pictures_are_counted_and_nothing_else_happens",
         "test_runtime_capture_mjpeg.py::test_damaged_pictures_are_corrupt_and_the_stream_goes_on",
         "test_runtime_camera_worker.py::test_pictures_that_are_none_are_damaged",
         "test_runtime_live_faults.py::test_logits_that_are_no_numbers_end_the_run"),
    ),
    Fault(
        8, "frozen picture", "FROZEN; a parked car is not",
        (f"{CAMERA}::test_a_frozen_picture_is_noticed_and_not_opened_again",
         "test_runtime_frozen.py::test_a_parked_car_is_not_frozen"),
    ),
    Fault(
        9, "storm of pictures", "capped at once, opened again after 3 s",
        (f"{CAMERA}::test_a_storm_is_capped_and_then_its_source_opened_again",),
    ),
    Fault(
        10, "slow or stuck consumer", "nobody waits for it; a slow viewer is dropped",
        ("test_runtime_server_limits.py::test_a_viewer_of_one_byte_per_second_is_dropped_and_delays_nobody",
         "test_runtime_outlet.py::test_a_blocked_sink_holds_up_neither_publisher_nor_others",
         "test_runtime_sink_shared_labels.py::test_a_stopped_or_dead_consumer_holds_up_nothing"),
    ),
    Fault(
        11, "engine slower than the camera", "newest picture wins, drops counted, age bounded",
        ("test_benchmarks_faults.py::test_an_engine_that_is_too_slow_gets_the_newest_picture",
         "test_runtime_camera.py::test_a_slow_consumer_gets_the_newest_picture"),
    ),
    Fault(
        12, "memory runs out", "at the start exit 2 and a line; in the run exit 70",
        ("test_pspnet_live_commands.py::test_what_a_new_process_may_cure_exits_with_70",
         "test_runtime_live_faults.py::test_an_engine_that_fails_ends_the_run",
         "test_runtime_tensorrt_refusals.py::test_too_little_memory_says_needed_and_free"),
        "a GPU whose memory is taken: an engine that raises what its library would, and the TensorRT double",
    ),
    Fault(
        13, "sticky CUDA error, hung kernel", "last record INVALID, exit 70 within 2 s of the error or the deadline",
        ("test_runtime_live_faults.py::test_an_engine_that_fails_ends_the_run",
         "test_runtime_live_faults.py::test_an_engine_that_hangs_ends_the_process_with_everything_flushed",
         "test_runtime_cuda.py::test_a_sticky_error_ends_the_device"),
        "a GPU: an engine that raises CUDA's error or never returns, and the CUDA driver double",
    ),
    Fault(
        14, "wrong or damaged engine", "refused before it is deserialised",
        ("test_runtime_tensorrt_refusals.py::test_refused_before_tensorrt_sees_it",
         "test_runtime_passport.py::test_a_flipped_byte",
         "test_runtime_tensorrt_refusals.py::test_another_machine_is_refused_before_tensorrt_sees_it"),
        "TensorRT on a GPU: the TensorRT double; nothing is timed here",
    ),
    Fault(
        15, "thermal or power throttling", "counted and shown",
        ("test_runtime_telemetry.py::test_results_drops_throttling_and_refusals_are_counted",),
        "a board that throttles: page and metrics show what they are told, and nothing is timed here",
    ),
    Fault(
        16, "the system's clock is set", "told once, no stall",
        ("test_runtime_camera.py::test_a_clock_step_is_told_once_and_is_no_stall",
         "test_runtime_camera_pace.py::test_a_step_of_the_clock_is_told_once_and_followed"),
        "the right to set the machine's clock: a clock that is given to the camera",
    ),
    Fault(
        17, "sensor's times backward, zero, in the future", "order of arrival, stamp left out and counted",
        (f"{CAMERA}::test_stamps_that_cannot_be_true_are_told_and_pictures_keep_their_order",
         "test_runtime_camera_pace.py::test_stamps_that_cannot_be_true_are_left_out"),
    ),
    Fault(
        18, "SIGTERM, SIGINT, twice", "exit within 2 s in every state, at once after a second one",
        ("test_pspnet_live_commands.py::test_a_signal_ends_the_run_in_every_state",
         "test_runtime_service.py::test_a_second_signal_leaves_at_once"),
    ),
    Fault(
        19, "a camera's process dies", "only that camera is away; nothing is left behind",
        (f"{CAMERA}::test_a_process_that_is_killed_or_stopped_from_outside_is_replaced",
         f"{CAMERA}::test_five_crashes_fail_the_camera",
         "test_runtime_camera_worker.py::test_the_processes_die_with_their_parent"),
    ),
    Fault(
        20, "disk full, port in use", "the output is DEGRADED, the run goes on; a port is refused at the start",
        ("test_runtime_sink_recording.py::test_a_full_disk_degrades_this_outlet_until_there_is_room",
         "test_runtime_server.py::test_a_port_that_is_taken_is_one_clear_error"),
    ),
    Fault(
        21, "/dev/shm too small", "refused at the start; pictures need none of it",
        ("test_runtime_sink_shared_labels.py::test_no_room_is_told_at_the_start",
         "test_runtime_frame_ring.py::test_memory_that_is_not_to_be_had_is_refused_with_the_bytes"),
    ),
    Fault(
        22, "the Argus daemon is stuck", "FAILED with advice; its clients are never killed",
        ("test_runtime_camera_worker.py::test_a_gentle_process_that_hangs_fails_its_camera_without_a_kill",
         "test_runtime_camera_worker.py::test_a_process_that_must_not_be_killed_is_left_behind_and_named",
         "test_runtime_capture_gstreamer.py::test_stuck_argus_comes_with_advice"),
        "a Jetson: a scripted camera that hangs, treated as a csi:// one, and GStreamer's error texts",
    ),
    Fault(
        23, "leaks over days", "memory, descriptors, threads and processes stay flat",
        ("test_runtime_soak.py::test_a_short_soak_is_clean",
         "test_runtime_camera_stop.py::test_descriptors_threads_memory_and_processes_are_given_back"),
    ),
    Fault(
        24, "one camera is slow or dead", "the others go on as if alone",
        ("test_runtime_live_faults.py::test_real_cameras_with_faults_are_told_apart_and_a_healthy_one_goes_on",
         f"{CAMERA}::test_the_others_go_on"),
    ),
)  # fmt: skip
