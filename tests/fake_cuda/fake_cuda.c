/* A stand-in for NVIDIA's driver, libcuda.so.1, in host memory: what it is asked and in what order, not how fast.

   Stricter than a GPU where that shows mistakes. Work waits in its stream until the stream is synchronised, so an answer
   read or a frame overwritten too early is wrong every time. Device addresses cannot be read by the host. Copies are taken
   between device and pinned memory only, inside one allocation. Every call but a few needs a current context.

   FAKE_CUDA_DEVICES, FAKE_CUDA_VERSION (13000), FAKE_CUDA_CAPABILITY (8.7), FAKE_CUDA_INTEGRATED,
   FAKE_CUDA_MULTIPROCESSORS (8), FAKE_CUDA_MEMORY (bytes) and FAKE_CUDA_FAIL set it up; see fake_fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
       INVALID_PTX = 218, INVALID_HANDLE = 400, NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901,
       CAPTURE_WRONG_THREAD = 908 };
enum { DEVICE = 1, PINNED = 2, MAPPED = 4 };
enum { STREAMS, DEVICE_MEMORY, PINNED_MEMORY, GRAPHS, EXECUTABLES, CONTEXTS, MODULES, KINDS };
#define DEVICE_ADDRESS (1ull << 54) /* no host address has this bit, and none that has it can be read */

typedef struct { int channels; char *to; const char *from; size_t count; } Work; /* channels 0: a copy of count bytes */
typedef struct { Work *work; size_t count, room; } List;
typedef struct { List waiting, captured; int capturing, broken; pthread_t capturer; } Stream;
typedef struct Block { char *address; size_t bytes; int kind; struct Block *next; } Block;
typedef struct { const char *function; uint64_t start; } Call;

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static __thread int depth;
static __thread Stream *capture; /* of this thread */
static Block *blocks;
static int live[KINDS], pushes, pops;
static long allocations;
static size_t device_bytes;
static uint64_t spent;
static char fail_name[64];
static int fail_in, fail_code, lost, fail_lost;

/* what a test asks for */

/* From now on the call-th call of `function` fails with `code`; with `forever` every later call of any function too. */
void fake_fail(const char *function, int call, int code, int forever) {
    snprintf(fail_name, sizeof fail_name, "%s", function);
    fail_in = call, fail_code = code, fail_lost = forever, lost = 0;
}
/* What a GPU that is lost takes with it. */
void fake_forget(void) { memset(live, 0, sizeof live), pushes = pops = depth = 0, device_bytes = 0; }
int fake_live(int kind) { return live[kind]; }
int fake_depth(void) { return depth; }
int fake_unbalanced(void) { return pushes - pops; }
long fake_allocations(void) { return allocations; }
uint64_t fake_nanoseconds(void) { return spent; }

__attribute__((constructor)) static void set_up(void) {
    char name[64], *text = getenv("FAKE_CUDA_FAIL"); /* FUNCTION:CALL:CODE[:lost] */
    int call, code;
    if (text && sscanf(text, "%63[^:]:%d:%d", name, &call, &code) == 3) fake_fail(name, call, code, strstr(text, ":lost") != NULL);
}

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

/* every function begins with CALL: one at a time, timed, and failing when it was told to */

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}
static Call enter(const char *function) {
    Call call = {function, now()};
    pthread_mutex_lock(&mutex);
    return call;
}
static void leave(Call *call) {
    spent += now() - call->start;
    pthread_mutex_unlock(&mutex);
}
static int failure(const char *function) {
    if (lost) return lost;
    if (!fail_in || strcmp(function, fail_name) || --fail_in) return SUCCESS;
    if (fail_lost) lost = fail_code;
    return fail_code;
}
#define CALL                                                           \
    Call call __attribute__((cleanup(leave))) = enter(__func__);       \
    int failed = failure(__func__);                                    \
    if (failed) return failed;
#define CALL_IN_CONTEXT CALL if (!depth) return INVALID_CONTEXT;
/* what may not be done while this thread captures: it spoils the capture */
#define NOT_CAPTURED if (capture) { capture->broken = 1; return CAPTURE_UNSUPPORTED; }

/* devices and contexts */

int cuInit(unsigned flags) { CALL return setting("FAKE_CUDA_DEVICES", 1) ? SUCCESS : NO_DEVICE; }
int cuDriverGetVersion(int *version) { CALL *version = setting("FAKE_CUDA_VERSION", 13000); return SUCCESS; }
int cuDeviceGetCount(int *count) { CALL *count = setting("FAKE_CUDA_DEVICES", 1); return SUCCESS; }
int cuDeviceGet(int *device, int index) {
    CALL
    *device = index;
    return index < 0 || index >= setting("FAKE_CUDA_DEVICES", 1) ? INVALID_DEVICE : SUCCESS;
}
int cuDeviceGetName(char *name, int room, int device) { CALL snprintf(name, room, "Fake GPU %d", device); return SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    CALL
    const char *text = getenv("FAKE_CUDA_CAPABILITY");
    int major = 8, minor = 7;
    if (text) sscanf(text, "%d.%d", &major, &minor);
    *value = attribute == 75 ? major : attribute == 76 ? minor : attribute == 18 ? setting("FAKE_CUDA_INTEGRATED", 0)
             : attribute == 16 ? setting("FAKE_CUDA_MULTIPROCESSORS", 8) : attribute == 19;
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { CALL *context = &live[CONTEXTS]; live[CONTEXTS]++; return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) {
    CALL
    if (!live[CONTEXTS]) return INVALID_CONTEXT;
    live[CONTEXTS]--;
    return SUCCESS;
}
int cuCtxPushCurrent_v2(void *context) {
    CALL
    if (context != &live[CONTEXTS] || !live[CONTEXTS]) return INVALID_CONTEXT;
    depth++, pushes++;
    return SUCCESS;
}
int cuCtxPopCurrent_v2(void **context) {
    CALL_IN_CONTEXT
    depth--, pops++;
    *context = &live[CONTEXTS];
    return SUCCESS;
}
int cuCtxGetDevice(int *device) { CALL_IN_CONTEXT *device = 0; return SUCCESS; }
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    CALL_IN_CONTEXT
    *total = setting("FAKE_CUDA_MEMORY", 1 << 30);
    *free_bytes = *total - device_bytes;
    return SUCCESS;
}

/* memory */

static int allocate(char **address, size_t bytes, int kind) {
    size_t limit = setting("FAKE_CUDA_MEMORY", 1 << 30);
    if (!bytes || (kind == DEVICE && bytes > limit - device_bytes)) return bytes ? OUT_OF_MEMORY : INVALID_VALUE;
    Block *block = malloc(sizeof *block);
    *block = (Block){malloc(bytes), bytes, kind, blocks};
    memset(block->address, 0xA5, bytes); /* it comes with anything in it */
    blocks = block, *address = block->address, allocations++;
    live[kind == DEVICE ? DEVICE_MEMORY : PINNED_MEMORY]++;
    if (kind == DEVICE) device_bytes += bytes;
    return SUCCESS;
}
static int release(const char *address, int kinds) {
    for (Block **at = &blocks; *at; at = &(*at)->next) {
        Block *block = *at;
        if (block->address != address || !(block->kind & kinds)) continue;
        *at = block->next;
        live[block->kind == DEVICE ? DEVICE_MEMORY : PINNED_MEMORY]--;
        if (block->kind == DEVICE) device_bytes -= block->bytes;
        memset(block->address, 0x5A, block->bytes); /* what reads it from here on is wrong */
        free(block->address);
        free(block);
        return SUCCESS;
    }
    return INVALID_VALUE;
}
static int holds(const char *address, size_t bytes, int kinds) {
    for (Block *block = blocks; block; block = block->next)
        if ((block->kind & kinds) && address >= block->address && address + bytes <= block->address + block->bytes) return 1;
    return 0;
}
/* the memory behind a device address, NULL when it is none */
static char *behind(uint64_t address, size_t bytes) {
    char *memory = (char *)(address & ~DEVICE_ADDRESS);
    return (address & DEVICE_ADDRESS) && holds(memory, bytes, DEVICE | MAPPED) ? memory : NULL;
}
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    CALL_IN_CONTEXT NOT_CAPTURED
    char *memory;
    int code = allocate(&memory, bytes, DEVICE);
    if (!code) *address = (uint64_t)memory | DEVICE_ADDRESS;
    return code;
}
int cuMemFree_v2(uint64_t address) { CALL_IN_CONTEXT NOT_CAPTURED return release((char *)(address & ~DEVICE_ADDRESS), DEVICE); }
int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
    CALL_IN_CONTEXT NOT_CAPTURED
    return allocate((char **)memory, bytes, flags & 2 ? MAPPED : PINNED);
}
int cuMemFreeHost(void *memory) { CALL_IN_CONTEXT NOT_CAPTURED return release(memory, PINNED | MAPPED); }
int cuMemHostGetDevicePointer_v2(uint64_t *address, void *memory, unsigned flags) {
    CALL_IN_CONTEXT
    *address = (uint64_t)memory | DEVICE_ADDRESS;
    return holds(memory, 1, MAPPED) ? SUCCESS : INVALID_VALUE;
}

/* streams and what waits in them */

static void append(List *list, const Work *work, size_t count) {
    if (list->count + count > list->room) {
        list->room = 2 * (list->count + count);
        list->work = realloc(list->work, list->room * sizeof *work);
    }
    memcpy(list->work + list->count, work, count * sizeof *work);
    list->count += count;
}
static void do_work(const Work *work) {
    const unsigned char *from = (const unsigned char *)work->from;
    if (!work->channels) memcpy(work->to, from, work->count);
    else
        for (size_t i = 0; i < work->count; i++, from += work->channels) work->to[i] = (from[0] + from[1] + from[2]) / 3;
}
static int enqueue(Stream *stream, Work work) {
    if (!work.to || !work.from) return INVALID_VALUE;
    append(stream->capturing ? &stream->captured : &stream->waiting, &work, 1);
    return SUCCESS;
}
/* The stand-in of a net: the mean of each pixel's first three bytes. */
int fake_kernel(Stream *stream, uint64_t to, uint64_t from, size_t pixels, int channels) {
    CALL_IN_CONTEXT
    return enqueue(stream, (Work){channels, behind(to, pixels), behind(from, pixels * channels), pixels});
}
int cuStreamCreate(Stream **stream, unsigned flags) {
    CALL_IN_CONTEXT NOT_CAPTURED
    *stream = calloc(1, sizeof **stream);
    live[STREAMS]++;
    return SUCCESS;
}
int cuStreamDestroy_v2(Stream *stream) {
    CALL_IN_CONTEXT
    free(stream->waiting.work);
    free(stream->captured.work);
    free(stream);
    live[STREAMS]--;
    return SUCCESS;
}
int cuStreamSynchronize(Stream *stream) {
    CALL_IN_CONTEXT NOT_CAPTURED
    for (size_t i = 0; i < stream->waiting.count; i++) do_work(&stream->waiting.work[i]);
    stream->waiting.count = 0;
    return SUCCESS;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const char *from, size_t bytes, Stream *stream) {
    CALL_IN_CONTEXT
    return enqueue(stream, (Work){0, behind(to, bytes), holds(from, bytes, PINNED | MAPPED) ? from : NULL, bytes});
}
int cuMemcpyDtoHAsync_v2(char *to, uint64_t from, size_t bytes, Stream *stream) {
    CALL_IN_CONTEXT
    return enqueue(stream, (Work){0, holds(to, bytes, PINNED | MAPPED) ? to : NULL, behind(from, bytes), bytes});
}

/* graphs */

int cuStreamBeginCapture_v2(Stream *stream, int mode) {
    CALL_IN_CONTEXT
    if (mode != 1 || stream->capturing) return INVALID_VALUE; /* 1: only what this thread does can spoil it */
    stream->capturing = 1, stream->broken = 0, stream->captured.count = 0, stream->capturer = pthread_self();
    capture = stream;
    return SUCCESS;
}
static List *copied(const List *list) {
    List *copy = calloc(1, sizeof *copy);
    append(copy, list->work, list->count);
    return copy;
}
static int destroyed(List *list, int kind) {
    free(list->work);
    free(list);
    live[kind]--;
    return SUCCESS;
}
int cuStreamEndCapture(Stream *stream, List **graph) {
    int mine = stream->capturing && pthread_equal(stream->capturer, pthread_self());
    if (mine) stream->capturing = 0, capture = NULL; /* whatever it answers, it ends */
    CALL_IN_CONTEXT
    *graph = NULL;
    if (!mine) return CAPTURE_WRONG_THREAD;
    if (stream->broken) return CAPTURE_INVALIDATED;
    *graph = copied(&stream->captured);
    live[GRAPHS]++;
    return SUCCESS;
}
int cuGraphInstantiateWithFlags(List **executable, List *graph, unsigned long long flags) {
    CALL_IN_CONTEXT
    *executable = copied(graph);
    live[EXECUTABLES]++;
    return SUCCESS;
}
int cuGraphLaunch(List *executable, Stream *stream) {
    CALL_IN_CONTEXT
    append(&stream->waiting, executable->work, executable->count);
    return SUCCESS;
}
int cuGraphDestroy(List *graph) { CALL_IN_CONTEXT return destroyed(graph, GRAPHS); }
int cuGraphExecDestroy(List *executable) { CALL_IN_CONTEXT return destroyed(executable, EXECUTABLES); }

/* kernels from text: any text is the kernel above, with three channels */

int cuModuleLoadData(void **module, const char *text) {
    CALL_IN_CONTEXT
    *module = &live[MODULES];
    if (!strstr(text, ".entry")) return INVALID_PTX;
    live[MODULES]++;
    return SUCCESS;
}
int cuModuleUnload(void *module) { CALL_IN_CONTEXT live[MODULES]--; return SUCCESS; }
int cuModuleGetFunction(void **function, void *module, const char *name) { CALL_IN_CONTEXT *function = module; return SUCCESS; }
int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, Stream *stream, void **values, void **extra) {
    CALL_IN_CONTEXT
    uint64_t to = *(uint64_t *)values[0], from = *(uint64_t *)values[1];
    uint32_t pixels = *(uint32_t *)values[2];
    return enqueue(stream, (Work){3, behind(to, pixels), behind(from, 3ull * pixels), pixels});
}

/* errors in the driver's words */

static const struct { int code; const char *name, *text; } ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};
static int explain(int code, const char **name, const char **text) {
    const char *unwanted;
    *(name ? name : &unwanted) = *(text ? text : &unwanted) = NULL;
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) {
            *(name ? name : &unwanted) = ERRORS[i].name;
            *(text ? text : &unwanted) = ERRORS[i].text;
            return SUCCESS;
        }
    return INVALID_VALUE;
}
int cuGetErrorName(int code, const char **name) { return explain(code, name, NULL); }
int cuGetErrorString(int code, const char **text) { return explain(code, NULL, text); }

/* how CUDA's own libraries find all of these: by the name without its _v2 */
int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status) {
    Dl_info self;
    char newer[128];
    snprintf(newer, sizeof newer, "%s_v2", symbol);
    dladdr((void *)cuInit, &self);
    void *library = dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    *function = dlsym(library, newer);
    if (!*function) *function = dlsym(library, symbol);
    dlclose(library);
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
