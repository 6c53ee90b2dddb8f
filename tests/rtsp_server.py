"""A real RTSP server for tests, run by Debian's own Python with gi: GStreamer's gst-rtsp-server on the loopback.

    rtsp_server.py PORT CLIP [USER PASSWORD basic|digest]

/pattern is a moving picture of 320x240 at 25 a second, H.264 with a key picture each second and no reordering; /jpeg
is the same as motion JPEG; /sound has no video; /clip is CLIP, once. It prints "ready" and serves until it is ended.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

PATTERN = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1"
ENCODER = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 sliced-threads=false threads=1"
STREAMS = {
    "/pattern": f"{PATTERN} ! {ENCODER} ! h264parse ! rtph264pay config-interval=-1 name=pay0",
    "/jpeg": f"{PATTERN} ! videoconvert ! video/x-raw,format=I420 ! jpegenc ! rtpjpegpay name=pay0",
    "/sound": "audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay0",
    "/clip": "filesrc location={clip} ! qtdemux ! h264parse ! rtph264pay config-interval=-1 name=pay0",
}


def main(port, clip, user="", password="", method=""):
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    permissions = None
    if user:
        authentication = GstRtspServer.RTSPAuth()
        wanted = GstRtsp.RTSPAuthMethod.BASIC if method == "basic" else GstRtsp.RTSPAuthMethod.DIGEST
        authentication.set_supported_methods(wanted)
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        if method == "basic":
            authentication.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        else:
            authentication.add_digest(user, password, token)
        server.set_auth(authentication)
        permissions = GstRtspServer.RTSPPermissions()
        for right in ("media.factory.access", "media.factory.construct"):
            permissions.add_permission_for_role("viewer", right, True)
    for path, launch in STREAMS.items():
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( {launch.format(clip=clip)} )")
        factory.set_shared(path != "/clip")
        if permissions is not None:
            factory.set_permissions(permissions)
        server.get_mount_points().add_factory(path, factory)
    if not server.attach(None):
        sys.exit(f"cannot listen at port {port}")
    print("ready", flush=True)
    GLib.MainLoop().run()


main(*sys.argv[1:])
