/* A program that uses a card, for tests with several processes. It says "ready", waits for a line, does its part, and prints the result. */
#include "check.h"
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1024 * 1024)

static void wait_for_line(void)
{
    char line[64];
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        exit(3);
}

/* Launches COUNT kernels of BLOCKS blocks and NS nanoseconds; prints the milliseconds between two events around them. */
static void measure(unsigned blocks, unsigned long long ns, int count)
{
    CUevent first, last;
    float ms;
    OK(cuEventCreate(&first, 0));
    OK(cuEventCreate(&last, 0));
    wait_for_line();
    OK(cuEventRecord(first, NULL));
    for (int i = 0; i < count; i++)
        launch(blocks, ns, NULL);
    OK(cuEventRecord(last, NULL));
    OK(cuEventSynchronize(last));
    OK(cuEventElapsedTime(&ms, first, last));
    printf("%.6f\n", (double)ms);
}

static void hold(size_t mib)
{
    CUdeviceptr address;
    OK(cuMemAlloc(&address, mib * MIB));
    wait_for_line();
    printf("%zu\n", free_bytes() / MIB);
}

/* All kinds of calls, for ever. */
static void churn(unsigned seed)
{
    CUdeviceptr held[16] = {0};
    CUstream stream;
    CUevent event;
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    puts("ready");
    fflush(stdout);
    for (;;) {
        unsigned place = (unsigned)rand_r(&seed) % 16;
        if (held[place])
            OK(cuMemFree(held[place]));
        OK(cuMemAlloc(&held[place], ((unsigned)rand_r(&seed) % 64 + 1) * 512 * 1024));
        OK(cuMemsetD8Async(held[place], 1, 1024, stream));
        OK(cuEventCreate(&event, 0));
        for (int i = 0; i < 5; i++)
            launch((unsigned)rand_r(&seed) % 1000 + 1, (unsigned)rand_r(&seed) % 50000, stream);
        OK(cuEventRecord(event, stream));
        if (place % 4 == 0)
            OK(cuStreamSynchronize(stream));
        OK(cuEventDestroy(event));
    }
}

static void flood(unsigned long long ns)
{
    puts("ready");
    fflush(stdout);
    for (;;)
        launch(1, ns, NULL);
}

/* After a fork the driver is of no use to the child, and the parent's goes on. */
static void forked(void)
{
    int status, count;
    CUdeviceptr address;
    OK(cuMemAlloc(&address, 8 * MIB));
    pid_t child = fork();
    if (child == 0) {
        FAILS(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGetCount(&count));
        FAILS(CUDA_ERROR_NOT_INITIALIZED, cuMemFree(address));
        FAILS(CUDA_ERROR_NOT_INITIALIZED, cuInit(0));
        _exit(0);
    }
    REQUIRE(waitpid(child, &status, 0) == child && status == 0);
    launch(1, 1000, NULL);
    OK(cuCtxSynchronize());
    OK(cuMemFree(address));
    puts("alive");
}

/* A child that forked before anything was initialised has a driver of its own. */
static void forked_before(void)
{
    int status;
    pid_t child = fork();
    start();
    launch(1, 1000, NULL);
    OK(cuCtxSynchronize());
    if (child == 0)
        _exit(0);
    REQUIRE(waitpid(child, &status, 0) == child && status == 0);
    puts("alive");
}

static void close_descriptors(void)
{
    CUdeviceptr address;
    OK(cuMemAlloc(&address, 100 * MIB));
    for (int file = 3; file < 1024; file++)
        close(file);
    launch(1, 1000, NULL);
    OK(cuCtxSynchronize());
    wait_for_line();
    OK(cuMemFree(address));
    puts("alive");
}

struct message {
    CUipcMemHandle memory;
    CUipcEventHandle event;
};

static void share_child(int channel)
{
    struct message message;
    CUdeviceptr address;
    CUevent event;
    int value = 0;
    start();
    REQUIRE(read(channel, &message, sizeof message) == sizeof message);
    OK(cuIpcOpenMemHandle(&address, message.memory, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    OK(cuIpcOpenEventHandle(&event, message.event));
    OK(cuStreamWaitEvent(NULL, event, 0));
    OK(cuMemcpyDtoH(&value, address, sizeof value));
    REQUIRE(value == 1234);
    value = 5678;
    OK(cuMemcpyHtoD(address + 4, &value, sizeof value));
    OK(cuIpcCloseMemHandle(address));
    REQUIRE(write(channel, &value, sizeof value) == sizeof value);
    _exit(0);
}

/* Memory and an event in two processes; the memory is paid for once. */
static void share(size_t bytes)
{
    int channel[2], value = 1234, status;
    struct message message;
    CUdeviceptr address, own;
    CUevent event;
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, channel) == 0);
    pid_t child = fork();
    if (child == 0)
        share_child(channel[1]);
    start();
    OK(cuMemAlloc(&address, bytes));
    OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS));
    OK(cuMemcpyHtoD(address, &value, sizeof value));
    OK(cuIpcGetMemHandle(&message.memory, address));
    OK(cuIpcGetEventHandle(&message.event, event));
    FAILS(CUDA_ERROR_INVALID_CONTEXT, cuIpcOpenMemHandle(&own, message.memory, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    launch(1, 20000000, NULL);
    OK(cuEventRecord(event, NULL));
    REQUIRE(write(channel[0], &message, sizeof message) == sizeof message);
    REQUIRE(read(channel[0], &value, sizeof value) == sizeof value);
    OK(cuMemcpyDtoH(&value, address + 4, sizeof value));
    REQUIRE(value == 5678);
    REQUIRE(waitpid(child, &status, 0) == child && status == 0);
    size_t with = free_bytes(); /* the other process has given back its part */
    OK(cuMemFree(address));
    REQUIRE(bytes < MIB || free_bytes() - with == (bytes + 2 * MIB - 1) / (2 * MIB) * (2 * MIB)); /* small ones share a piece */
    puts("shared");
}

static int send_file(int channel, int file)
{
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {&byte, 1};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *message = CMSG_FIRSTHDR(&header);
    message->cmsg_level = SOL_SOCKET;
    message->cmsg_type = SCM_RIGHTS;
    message->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(message), &file, sizeof file);
    return sendmsg(channel, &header, 0) == 1;
}

static int receive_file(int channel)
{
    char byte, control[CMSG_SPACE(sizeof(int))];
    int file = -1;
    struct iovec part = {&byte, 1};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(channel, &header, 0) == 1 && CMSG_FIRSTHDR(&header))
        memcpy(&file, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof file);
    return file;
}

/* Physical memory goes to another process as a descriptor. */
static void share_physical(void)
{
    CUmemAllocationProp about = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                 .location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}}};
    CUmemAccessDesc access = {.location = about.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle handle;
    CUdeviceptr range;
    int channel[2], file, status, value = 99;
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, channel) == 0);
    pid_t child = fork();
    start();
    OK(cuMemAddressReserve(&range, 2 * MIB, 0, 0, 0));
    if (child == 0) {
        file = receive_file(channel[1]);
        OK(cuMemImportFromShareableHandle(&handle, (void *)(size_t)file, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
        OK(cuMemMap(range, 2 * MIB, 0, handle, 0));
        OK(cuMemSetAccess(range, 2 * MIB, &access, 1));
        OK(cuMemcpyDtoH(&value, range, sizeof value));
        REQUIRE(value == 4321);
        _exit(0);
    }
    OK(cuMemCreate(&handle, 2 * MIB, &about, 0));
    OK(cuMemMap(range, 2 * MIB, 0, handle, 0));
    OK(cuMemSetAccess(range, 2 * MIB, &access, 1));
    value = 4321;
    OK(cuMemcpyHtoD(range, &value, sizeof value));
    OK(cuMemExportToShareableHandle(&file, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    REQUIRE(send_file(channel[0], file));
    REQUIRE(waitpid(child, &status, 0) == child && status == 0);
    size_t with = free_bytes();
    OK(cuMemUnmap(range, 2 * MIB));
    OK(cuMemRelease(handle));
    close(file);
    REQUIRE(free_bytes() - with == 2 * MIB);
    puts("shared");
}

int main(int count, char **arguments)
{
    const char *part = count > 1 ? arguments[1] : "";
    unsigned long long number[3] = {0};
    for (int i = 0; i < 3 && i + 2 < count; i++)
        number[i] = strtoull(arguments[i + 2], NULL, 10);
    if (strcmp(part, "forked_before") == 0)
        forked_before();
    else if (strcmp(part, "share") == 0)
        share(number[0]);
    else if (strcmp(part, "share_physical") == 0)
        share_physical();
    else {
        start();
        if (strcmp(part, "measure") == 0)
            measure((unsigned)number[0], number[1], (int)number[2]);
        else if (strcmp(part, "hold") == 0)
            hold(number[0]);
        else if (strcmp(part, "churn") == 0)
            churn((unsigned)number[0]);
        else if (strcmp(part, "flood") == 0)
            flood(number[0]);
        else if (strcmp(part, "forked") == 0)
            forked();
        else if (strcmp(part, "close_descriptors") == 0)
            close_descriptors();
        else
            return 2;
    }
    return 0;
}
