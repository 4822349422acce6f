/* A driver whose device is the host: memory from malloc, copies at once, time in calls. It counts
   what is allocated, so that a test can see that all of it is given back. */
#include <stdlib.h>
#include <string.h>
#include <stdint.h>

static int live, clock_ms, fail_copies, fail_capture, retained;
static void *current;

/* A graph is the copies that were put on a stream while it captured. */
struct copy { void *to; const void *from; size_t size; };
struct graph { struct copy copies[8]; int count; };
static struct graph *capturing;

int live_objects(void) { return live; }
void let_copies_fail(int yes) { fail_copies = yes; }
void let_captures_fail(int yes) { fail_capture = yes; }
static int copy(void *to, const void *from, size_t size, void *stream) {
    if (fail_copies || !stream) return 400;
    if (capturing) capturing->copies[capturing->count++] = (struct copy){to, from, size};
    else memcpy(to, from, size);
    return 0;
}
static int make(void **out, size_t size) { *out = malloc(size ? size : 1); live++; return 0; }
static int drop(void *object) { free(object); live--; return 0; }

int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 40; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, device == 40 ? "Orin" : "wrong", size);
    return 0;
}
int cuDeviceGetUuid(unsigned char *uuid, int device) {
    for (int i = 0; i < 16; i++) uuid[i] = device == 40 ? i : 255;
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = device == 40 ? (attribute == 75 ? 8 : attribute == 76 ? 7 : -1) : -2;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &retained;
    retained++, live++;
    return device == 40 ? 0 : 1;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    retained--, live--;
    return device == 40 ? 0 : 1;
}
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    *flags = 0, *active = retained > 0;
    return device == 40 ? 0 : 1;
}
int cuCtxSetCurrent(void *context) { current = context; return 0; }
int has_context(void) { return current != 0; }
int cuMemAlloc_v2(uint64_t *out, size_t size) {
    if (!current) return 201;
    if (size > (size_t)1 << 40) return 2;
    void *memory;
    make(&memory, size);
    *out = (uint64_t)(uintptr_t)memory;
    return 0;
}
int cuMemFree_v2(uint64_t memory) { return drop((void *)(uintptr_t)memory); }
int cuMemHostAlloc(void **out, size_t size, unsigned flags) { (void)flags; return make(out, size); }
int cuMemFreeHost(void *memory) { return drop(memory); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
    return copy((void *)(uintptr_t)to, from, size, stream);
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
    return copy(to, (void *)(uintptr_t)from, size, stream);
}
int cuStreamCreate(void **out, unsigned flags) { return flags == 1 ? make(out, 1) : 1; }
int cuStreamDestroy_v2(void *stream) { return drop(stream); }
int cuStreamSynchronize(void *stream) { return !stream ? 400 : capturing ? 900 : 0; }
int cuStreamBeginCapture_v2(void *stream, int mode) {
    if (!stream || mode != 1 || capturing) return 1;
    live++;
    capturing = calloc(1, sizeof *capturing);
    return 0;
}
int cuStreamEndCapture(void *stream, void **graph) {
    *graph = capturing;
    capturing = 0;
    if (!*graph || !stream) return 1;
    if (!fail_capture) return 0;
    drop(*graph);
    *graph = 0;
    return 901;
}
int cuGraphInstantiateWithFlags(void **out, void *graph, unsigned long long flags) {
    if (!graph || flags) return 1;
    make(out, sizeof(struct graph));
    memcpy(*out, graph, sizeof(struct graph));
    return 0;
}
int cuGraphLaunch(void *exec, void *stream) {
    struct graph *graph = exec;
    for (int i = 0; i < graph->count; i++) {
        struct copy *one = &graph->copies[i];
        int failed = copy(one->to, one->from, one->size, stream);
        if (failed) return failed;
    }
    return 0;
}
int cuGraphDestroy(void *graph) { return graph ? drop(graph) : 1; }
int cuGraphExecDestroy(void *exec) { return drop(exec); }
int cuEventCreate(void **out, unsigned flags) { (void)flags; return make(out, sizeof(int)); }
int cuEventDestroy_v2(void *event) { return drop(event); }
int cuEventRecord(void *event, void *stream) {
    *(int *)event = ++clock_ms;
    return stream ? 0 : 400;
}
int cuEventElapsedTime(float *out, void *first, void *second) {
    *out = (float)(*(int *)second - *(int *)first);
    return 0;
}
int cuGetErrorName(int code, const char **name) {
    *name = code == 2     ? "CUDA_ERROR_OUT_OF_MEMORY"
            : code == 201 ? "CUDA_ERROR_INVALID_CONTEXT"
            : code == 400 ? "CUDA_ERROR_INVALID_HANDLE"
            : code == 901 ? "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
                          : 0;
    return *name ? 0 : 1;
}
