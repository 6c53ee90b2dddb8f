/* A V4L2 camera for the C library: preloaded, it makes one file a device that streams, for OpenCV's own V4L2 code.

   V4L2_DOUBLE: the file. V4L2_DOUBLE_FORMATS: its formats, as YUYVNV12. V4L2_DOUBLE_STALL, _GONE, _CUT: after so many
   pictures nothing comes any more, the device is gone, or half of each picture is missing. V4L2_DOUBLE_JPEG: the file
   that it gives as MJPG. V4L2_DOUBLE_CLOCK=realtime stamps with the wall clock. A raw picture's first byte is its
   number; there are 50 pictures a second of any size, in BT.709. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { BUFFERS = 4, BUFFER_BYTES = 1 << 22, PERIOD_NS = 20000000 };

static int device = -1, queued[BUFFERS], next, pictures;
static void *memory[BUFFERS];
static struct v4l2_pix_format pixels = {.width = 64, .height = 48};

static int setting(const char *name) { const char *text = getenv(name); return text ? atoi(text) : -1; }

static int has_format(unsigned code) {
    const char *list = getenv("V4L2_DOUBLE_FORMATS");
    for (; list && strlen(list) >= 4; list += 4)
        if (!memcmp(list, &code, 4)) return 1;
    return 0;
}

static void set_size(void) {
    int bytes_a_row = pixels.pixelformat == V4L2_PIX_FMT_NV12 ? pixels.width : 2 * pixels.width;
    pixels.bytesperline = bytes_a_row;
    pixels.sizeimage = bytes_a_row * pixels.height * (pixels.pixelformat == V4L2_PIX_FMT_NV12 ? 3 : 2) / 2;
    pixels.field = V4L2_FIELD_NONE;
    pixels.colorspace = V4L2_COLORSPACE_REC709;
}

static int open_double(const char *path) {
    const char *mine = getenv("V4L2_DOUBLE");
    if (!mine || strcmp(path, mine)) return -1;
    if (!pixels.pixelformat) { memcpy(&pixels.pixelformat, getenv("V4L2_DOUBLE_FORMATS"), 4); set_size(); }
    return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
}

int open(const char *path, int flags, ...) {
    va_list list; va_start(list, flags); int mode = va_arg(list, int); va_end(list);
    int opened = open_double(path);
    if (opened >= 0) { device = opened; return opened; }
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open"))(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list list; va_start(list, flags); int mode = va_arg(list, int); va_end(list);
    return open(path, flags, mode);
}

void *mmap64(void *where, size_t bytes, int protection, int flags, int file, off64_t offset) {
    void *(*real)(void *, size_t, int, int, int, off64_t) = dlsym(RTLD_NEXT, "mmap64");
    if (file != device || device < 0) return real(where, bytes, protection, flags, file, offset);
    return memory[offset / BUFFER_BYTES] = real(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

void *mmap(void *where, size_t bytes, int protection, int flags, int file, off_t offset) {
    return mmap64(where, bytes, protection, flags, file, offset);
}

static void stream(int file, int on) {
    struct itimerspec every = {0};
    if (on) every.it_interval.tv_nsec = every.it_value.tv_nsec = PERIOD_NS;
    timerfd_settime(file, 0, &every, 0);
}

static unsigned fill(unsigned char *picture, int number) {
    FILE *jpeg = pixels.pixelformat == V4L2_PIX_FMT_MJPEG ? fopen(getenv("V4L2_DOUBLE_JPEG"), "rb") : 0;
    if (jpeg) {
        unsigned bytes = fread(picture, 1, BUFFER_BYTES, jpeg);
        fclose(jpeg);
        return bytes;
    }
    memset(picture, 128, pixels.sizeimage);
    *picture = number;
    return pixels.sizeimage;
}

static int dequeue(int file, struct v4l2_buffer *buffer) {
    unsigned long long expired;
    if (pictures == setting("V4L2_DOUBLE_GONE")) { errno = ENODEV; return -1; }
    if (read(file, &expired, sizeof expired) != sizeof expired) { errno = EAGAIN; return -1; }
    for (int tried = 0; !queued[next]; next = (next + 1) % BUFFERS)
        if (++tried > BUFFERS) { errno = EAGAIN; return -1; }
    int cut = setting("V4L2_DOUBLE_CUT");
    unsigned bytes = fill(memory[next], ++pictures);
    queued[next] = 0;
    buffer->index = next;
    buffer->bytesused = cut >= 0 && pictures > cut ? bytes / 2 : bytes;
    buffer->length = BUFFER_BYTES;
    buffer->flags = V4L2_BUF_FLAG_DONE | V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    const char *clock = getenv("V4L2_DOUBLE_CLOCK");
    struct timespec now;
    clock_gettime(clock && !strcmp(clock, "realtime") ? CLOCK_REALTIME : CLOCK_MONOTONIC, &now);
    buffer->timestamp.tv_sec = now.tv_sec;
    buffer->timestamp.tv_usec = now.tv_nsec / 1000;
    next = (next + 1) % BUFFERS;
    if (pictures == setting("V4L2_DOUBLE_STALL")) stream(file, 0);
    return 0;
}

static int negotiate(struct v4l2_format *format, unsigned long request) {
    if (format->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) { errno = EINVAL; return -1; }
    if (request != VIDIOC_G_FMT && has_format(format->fmt.pix.pixelformat)) {
        pixels.pixelformat = format->fmt.pix.pixelformat;
        pixels.width = format->fmt.pix.width & ~1u;
        pixels.height = format->fmt.pix.height & ~1u;
        set_size();
    }
    format->fmt.pix = pixels;
    return 0;
}

static int answer(int file, unsigned long request, void *argument) {
    struct v4l2_buffer *buffer = argument;
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *about = argument;
        memset(about, 0, sizeof *about);
        strcpy((char *)about->driver, "double");
        about->capabilities = about->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    }
    case VIDIOC_G_FMT: case VIDIOC_S_FMT: case VIDIOC_TRY_FMT: return negotiate(argument, request);
    case VIDIOC_G_PARM: case VIDIOC_S_PARM: {
        struct v4l2_streamparm *parameters = argument;
        parameters->parm.capture.timeperframe = (struct v4l2_fract){1, 50};
        return 0;
    }
    case VIDIOC_G_INPUT: *(int *)argument = 0; return 0;
    case VIDIOC_S_INPUT: return 0;
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *wanted = argument;
        if (wanted->count > BUFFERS) wanted->count = BUFFERS;
        return 0;
    }
    case VIDIOC_QUERYBUF: buffer->length = BUFFER_BYTES; buffer->m.offset = buffer->index * BUFFER_BYTES; return 0;
    case VIDIOC_QBUF: queued[buffer->index] = 1; return 0;
    case VIDIOC_DQBUF: return dequeue(file, buffer);
    case VIDIOC_STREAMON: stream(file, setting("V4L2_DOUBLE_STALL") != 0); return 0;
    case VIDIOC_STREAMOFF: stream(file, 0); memset(queued, 0, sizeof queued); next = 0; return 0;
    }
    errno = EINVAL;
    return -1;
}

int ioctl(int file, unsigned long request, ...) {
    va_list list; va_start(list, request); void *argument = va_arg(list, void *); va_end(list);
    char link[64], path[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    if (getenv("V4L2_DOUBLE") && strstr(path, "timerfd")) return answer(file, request & 0xFFFFFFFF, argument);
    return ((int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl"))(file, request, argument);
}
