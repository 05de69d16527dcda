/* Other methods of dividing a card's time, so that ours can be compared with them in the same harness. One library, preloaded into programs
   that are linked with the driver; the environment says which method, and what the container was given:

       RIVAL_METHOD         block_count_linear, block_count_squared, aimd, exclusive_quantum
       RIVAL_PAGE           the file that all containers of the card share (struct page)
       RIVAL_PLACE          this container's place in it
       RIVAL_REQUEST, RIVAL_LIMIT (percent), RIVAL_PRIORITY
       RIVAL_DILATION_PPM   real nanoseconds for a million simulated ones, in parts: all spans below are simulated ones

   Written from descriptions, none of it from their code:

   block_count_*      HAMi-core's limiter, as issues 274 and 314 and pull request 317 of Project-HAMi/HAMi-core describe it (it comes from
                      vcuda-controller): a launch pays its blocks from a bucket of multiprocessors x threads x 32, which a watcher refills
                      every 120 ms by a share that it corrects by the difference between limit and NVML's utilisation of the container.
                      The correction grows with the square of the multiprocessors (squared), or, as the pull request has it, linearly.
                      Each process has a bucket of its own. Graphs and cooperative launches pass unseen (HAMi#1445). Priority: while a
                      more important container was active in the last two rounds of 5 s, a less important one launches nothing
                      (HAMi, cmd/vGPUmonitor).
   aimd               vgpu-manager's controller (docs/sm_controller_aimd.md there): the same bucket, one for all processes of a container,
                      graphs and cooperative launches included; the share grows steadily below 80 % of the limit, stays up to 87.5 %, and
                      above is divided by 3, then not changed for three rounds. With priority the limit is at most what NVML says that
                      more important containers leave.
   exclusive_quantum  Gemini and nvshare: containers have the card in turns of 100 ms, next who has had the least of its request; a limit
                      is kept by sitting out. What a launcher has put into its streams when its turn ends goes on. */
#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <nvml.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define CONTAINERS 16
#define PROCESSES 64
#define GRAPHS 64
#define MS 1000000ull
#define FACTOR 32
#define ROUND_NS (120 * MS)
#define PRIORITY_ROUND_NS (5000 * MS)
#define QUANTUM_NS (100 * MS)
#define NOBODY (-1)

struct container {
    int64_t request, limit, priority;
    int32_t pids[PROCESSES];
    uint64_t launched_ns; /* last */
    int64_t tokens, share, cooldown; /* aimd: of all processes */
    uint64_t refilled_ns;
    uint64_t joined_ns, wanted_ns, held_ns; /* exclusive_quantum */
};

struct page {
    uint32_t lock;
    int32_t holder;
    uint64_t until_ns;
    struct container containers[CONTAINERS];
};

static enum { NONE, LINEAR, SQUARED, AIMD, QUANTUM } method;
static struct page *page;
static struct container *own;
static uint64_t ppm = 1000000;
static int64_t multiprocessors, threads, total; /* total: blocks that the bucket holds */
static struct container alone;                  /* block_count: this process's own bucket */
static bool blocked;
static struct {
    CUgraphExec exec;
    int64_t blocks;
} graphs[GRAPHS];

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)((unsigned __int128)((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec) * 1000000u / ppm);
}

static void pause_ns(uint64_t simulated)
{
    uint64_t real = (uint64_t)((unsigned __int128)simulated * ppm / 1000000u);
    nanosleep(&(struct timespec){.tv_sec = (time_t)(real / 1000000000u), .tv_nsec = (long)(real % 1000000000u)}, NULL);
}

static void lock(void)
{
    while (__atomic_exchange_n(&page->lock, 1, __ATOMIC_ACQUIRE))
        sched_yield();
}

static void unlock(void)
{
    __atomic_store_n(&page->lock, 0, __ATOMIC_RELEASE);
}

static int64_t number(const char *name, int64_t standard)
{
    const char *text = getenv(name);
    return text ? strtoll(text, NULL, 10) : standard;
}

/* The percent of the card that NVML says a container has used in the last second. */
static int64_t utilisation(nvmlDevice_t card, const struct container *container)
{
    nvmlProcessUtilizationSample_t samples[256];
    unsigned count = 256;
    int64_t sum = 0;
    if (nvmlDeviceGetProcessUtilization(card, samples, &count, 0) != NVML_SUCCESS)
        return 0;
    for (unsigned i = 0; i < count; i++)
        for (int place = 0; place < PROCESSES; place++)
            if (container->pids[place] && container->pids[place] == (int32_t)samples[i].pid)
                sum += samples[i].smUtil;
    return sum;
}

static int64_t clamp(int64_t value, int64_t least, int64_t most)
{
    return value < least ? least : value > most ? most : value;
}

static void refill(struct container *bucket)
{
    int64_t tokens = __atomic_add_fetch(&bucket->tokens, bucket->share, __ATOMIC_RELAXED);
    if (tokens > total)
        __atomic_store_n(&bucket->tokens, total, __ATOMIC_RELAXED);
}

static void correct_block_count(nvmlDevice_t card)
{
    int64_t used = utilisation(card, own), limit = own->limit, off = llabs(limit - used);
    int64_t difference = off < 5 ? 5 : off;
    int64_t step = multiprocessors * threads * difference / 2560 * (method == SQUARED ? multiprocessors : 1);
    if (difference > limit / 2)
        step = step * difference * 2 / (limit + 1);
    alone.share = clamp(alone.share + (used <= limit ? step : -step), 0, total);
    if (alone.share == total && alone.tokens < 0)
        total *= 2;
    refill(&alone);
}

/* One process of the container does it, whichever comes first in a round. */
static void correct_aimd(nvmlDevice_t card)
{
    uint64_t now = now_ns(), before = __atomic_load_n(&own->refilled_ns, __ATOMIC_RELAXED);
    if (now - before < ROUND_NS * 3 / 4 || !__atomic_compare_exchange_n(&own->refilled_ns, &before, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        return;
    int64_t used = utilisation(card, own), limit = own->limit;
    for (int place = 0; place < CONTAINERS; place++)
        if (page->containers[place].priority > own->priority)
            limit = clamp(limit, 1, 100 - utilisation(card, &page->containers[place]));
    if (own->cooldown > 0)
        own->cooldown--;
    else if (used * 1000 > limit * 875) {
        own->share /= 3;
        own->cooldown = 3;
    } else if (used * 100 < limit * 80) {
        int64_t gap = limit - used;
        own->share = clamp(own->share + multiprocessors * threads * limit / 400 * gap / 5, 0, total);
    }
    refill(own);
}

static void look_at_priority(void)
{
    bool active = false;
    for (int place = 0; place < CONTAINERS; place++) {
        const struct container *other = &page->containers[place];
        uint64_t last = __atomic_load_n(&other->launched_ns, __ATOMIC_RELAXED);
        active |= other->priority > own->priority && last && now_ns() < last + 2 * PRIORITY_ROUND_NS;
    }
    __atomic_store_n(&blocked, active, __ATOMIC_RELAXED);
}

static void *watch(void *unused)
{
    nvmlDevice_t card;
    uint64_t looked_ns = now_ns();
    if (nvmlInit_v2() != NVML_SUCCESS || nvmlDeviceGetHandleByIndex_v2(0, &card) != NVML_SUCCESS)
        abort();
    prctl(PR_SET_TIMERSLACK, 1000UL);
    for (;;) {
        pause_ns(ROUND_NS);
        if (method == AIMD)
            correct_aimd(card);
        else
            correct_block_count(card);
        if (method != AIMD && now_ns() - looked_ns >= PRIORITY_ROUND_NS) {
            looked_ns = now_ns();
            look_at_priority();
        }
    }
    return unused;
}

/* At the first launch: before it there is no context, and NVML shows the process only with one. */
static void begin(void)
{
    int value;
    pthread_t thread;
    if (cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0) != CUDA_SUCCESS)
        abort();
    multiprocessors = value;
    if (cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 0) != CUDA_SUCCESS)
        abort();
    threads = value;
    total = multiprocessors * threads * FACTOR;
    if (method != QUANTUM && pthread_create(&thread, NULL, watch, NULL))
        abort();
}

static void pass_bucket(int64_t blocks)
{
    struct container *bucket = method == AIMD ? own : &alone;
    while (__atomic_load_n(&blocked, __ATOMIC_RELAXED))
        pause_ns(1000 * MS);
    if (own->limit >= 100 && (method != AIMD || own->priority >= page->containers[0].priority))
        return;
    while (__atomic_load_n(&bucket->tokens, __ATOMIC_RELAXED) < 0)
        pause_ns(10 * MS);
    __atomic_fetch_sub(&bucket->tokens, blocks, __ATOMIC_RELAXED);
}

static bool may_have(const struct container *container, uint64_t now)
{
    return container->limit >= 100 || container->held_ns * 100 <= (now - container->joined_ns) * (uint64_t)container->limit;
}

/* Who wants the card, may have it, and has had the least for its request. */
static int next_holder(uint64_t now)
{
    int best = NOBODY;
    for (int place = 0; place < CONTAINERS; place++) {
        const struct container *one = &page->containers[place], *other = &page->containers[best < 0 ? 0 : best];
        if (!one->wanted_ns || now > one->wanted_ns + 5 * MS || !may_have(one, now))
            continue;
        if (best == NOBODY || one->held_ns * (uint64_t)other->request < other->held_ns * (uint64_t)one->request)
            best = place;
    }
    return best;
}

static void pass_turn(void)
{
    int place = (int)(own - page->containers);
    for (;;) {
        uint64_t now = now_ns();
        lock();
        if (!own->joined_ns)
            own->joined_ns = now;
        own->wanted_ns = now;
        if (now >= page->until_ns)
            page->holder = NOBODY;
        if (page->holder == NOBODY && (page->holder = next_holder(now)) != NOBODY) {
            page->containers[page->holder].held_ns += QUANTUM_NS;
            page->until_ns = now + QUANTUM_NS;
        }
        bool mine = page->holder == place;
        unlock();
        if (mine)
            return;
        pause_ns(MS);
    }
}

static void pass(int64_t blocks)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (method == NONE)
        return;
    pthread_once(&once, begin);
    __atomic_store_n(&own->launched_ns, now_ns(), __ATOMIC_RELAXED);
    if (method == QUANTUM)
        pass_turn();
    else
        pass_bucket(blocks);
}

__attribute__((constructor)) static void load(void)
{
    static const char *const names[] = {"", "block_count_linear", "block_count_squared", "aimd", "exclusive_quantum"};
    const char *wanted = getenv("RIVAL_METHOD"), *path = getenv("RIVAL_PAGE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    int64_t place = number("RIVAL_PLACE", -1);
    for (int i = LINEAR; wanted && i <= QUANTUM; i++)
        if (strcmp(wanted, names[i]) == 0)
            method = i;
    if (method == NONE || file < 0 || place < 0 || place >= CONTAINERS || ftruncate(file, sizeof *page)) {
        fprintf(stderr, "rivals: RIVAL_METHOD, RIVAL_PAGE or RIVAL_PLACE is wrong\n");
        _exit(1);
    }
    page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (page == MAP_FAILED)
        _exit(1);
    ppm = (uint64_t)number("RIVAL_DILATION_PPM", 1000000);
    own = &page->containers[place];
    own->request = number("RIVAL_REQUEST", 100);
    own->limit = number("RIVAL_LIMIT", 100);
    own->priority = number("RIVAL_PRIORITY", 0);
    for (int i = 0; i < PROCESSES; i++) {
        int32_t none = 0;
        if (__atomic_compare_exchange_n(&own->pids[i], &none, getpid(), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            break;
    }
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define HOOK __attribute__((visibility("default"))) CUresult CUDAAPI

HOOK cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream stream, void **parameters, void **extra)
{
    static __typeof__(&cuLaunchKernel) real;
    if (!real)
        real = REAL(cuLaunchKernel);
    pass((int64_t)gx * gy * gz);
    return real(f, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra);
}

HOOK cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **parameters, void **extra)
{
    static __typeof__(&cuLaunchKernelEx) real;
    if (!real)
        real = REAL(cuLaunchKernelEx);
    pass((int64_t)config->gridDimX * config->gridDimY * config->gridDimZ);
    return real(config, f, parameters, extra);
}

HOOK cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream stream, void **parameters)
{
    static __typeof__(&cuLaunchCooperativeKernel) real;
    if (!real)
        real = REAL(cuLaunchCooperativeKernel);
    if (method == AIMD || method == QUANTUM)
        pass((int64_t)gx * gy * gz);
    return real(f, gx, gy, gz, bx, by, bz, shared, stream, parameters);
}

/* What a graph costs is known when it is instantiated: the blocks of all its kernels. */
HOOK cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags)
{
    CUgraphNode nodes[1024];
    CUDA_KERNEL_NODE_PARAMS kernel;
    size_t count = 1024;
    int64_t blocks = 0;
    CUresult result = REAL(cuGraphInstantiateWithFlags)(exec, graph, flags);
    if (result || cuGraphGetNodes(graph, nodes, &count))
        return result;
    for (size_t i = 0; i < count; i++)
        if (cuGraphKernelNodeGetParams(nodes[i], &kernel) == CUDA_SUCCESS)
            blocks += (int64_t)kernel.gridDimX * kernel.gridDimY * kernel.gridDimZ;
    for (int i = 0; i < GRAPHS; i++)
        if (!graphs[i].exec) {
            graphs[i].exec = *exec;
            graphs[i].blocks = blocks;
            break;
        }
    return result;
}

HOOK cuGraphLaunch(CUgraphExec exec, CUstream stream)
{
    static __typeof__(&cuGraphLaunch) real;
    if (!real)
        real = REAL(cuGraphLaunch);
    for (int i = 0; i < GRAPHS && (method == AIMD || method == QUANTUM); i++)
        if (graphs[i].exec == exec) {
            pass(graphs[i].blocks);
            break;
        }
    return real(exec, stream);
}
