/* A thread that looks after the lanes while there is work: a turn must end also when the program is busy with something else. */
#define _GNU_SOURCE
#include "compute.h"
#include "linking.h"
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint32_t awake; /* futex */
static uint32_t started;

void keeper_after_fork(void)
{
    awake = 0;
    started = 0;
}

static void *keep(void *nothing)
{
    CUstreamCaptureMode relaxed = CU_STREAM_CAPTURE_MODE_RELAXED;
    prctl(PR_SET_NAME, "tessera");
    prctl(PR_SET_TIMERSLACK, 1000UL);
    driver()->cuThreadExchangeStreamCaptureMode(&relaxed);
    for (;;) {
        uint64_t again = lanes_tick();
        if (again) {
            clock_sleep(again);
            continue;
        }
        __atomic_store_n(&awake, 0, __ATOMIC_RELEASE);
        if (!lanes_tick()) /* nobody has woken it up in between */
            syscall(SYS_futex, &awake, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
        __atomic_store_n(&awake, 1, __ATOMIC_RELEASE);
    }
    return nothing;
}

typedef int (*create_function)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

/* The program's signals are not for this thread. pthread_create and pthread_sigmask have newer versions in newer C libraries, which
   older ones lack: the one is asked for by name, the other is a system call of eight bytes of signals. */
static void start(void)
{
    const uint64_t all = ~UINT64_C(0);
    uint64_t before = 0;
    pthread_t thread;
    pthread_attr_t attributes;
    create_function create = (create_function)real_dlsym(RTLD_DEFAULT, "pthread_create");
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (!create || create(&thread, &attributes, keep, NULL))
        __atomic_store_n(&started, 0, __ATOMIC_RELEASE); /* tried again at the next launch that waits */
    pthread_attr_destroy(&attributes);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
}

void keeper_wake(void)
{
    if (__atomic_load_n(&awake, __ATOMIC_ACQUIRE))
        return;
    if (!__atomic_exchange_n(&started, 1, __ATOMIC_ACQ_REL)) {
        __atomic_store_n(&awake, 1, __ATOMIC_RELEASE);
        start();
        return;
    }
    __atomic_store_n(&awake, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &awake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
