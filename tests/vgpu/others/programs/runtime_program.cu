// A program of the CUDA runtime as people write it, in the form that nvcc makes of it. Prints lines as steps.py does.
#include <cstdio>

#include <cuda_runtime.h>

__device__ float scale = 2;

__global__ void multiply(float *values, int count)
{
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count)
        values[at] *= scale;
}

static void say(const char *step, cudaError_t error, size_t value)
{
    if (error)
        printf("{\"step\": \"%s\", \"error\": \"%s\"}\n", step, cudaGetErrorName(error));
    else
        printf("{\"step\": \"%s\", \"value\": \"%zu\"}\n", step, value);
}

static cudaError_t launched(float *values, cudaStream_t stream)
{
    multiply<<<4096, 256, 0, stream>>>(values, 1 << 20);
    return cudaGetLastError();
}

int main()
{
    int devices = 0, factor = 3;
    size_t available = 0, total = 0;
    float *values = nullptr, number = static_cast<float>(factor);
    void *much = nullptr;
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    cudaError_t error = cudaGetDeviceCount(&devices);
    say("devices", error, static_cast<size_t>(devices));
    error = cudaMemGetInfo(&available, &total);
    say("total_gib", error, total >> 30);
    say("allocation", cudaMalloc(&values, 1 << 22), 1);
    say("fill", cudaMemset(values, 0, 1 << 22), 1);
    say("variable", cudaMemcpyToSymbol(scale, &number, sizeof number), 1);
    say("stream", cudaStreamCreate(&stream), 1);
    say("kernel", launched(values, stream), 1);
    say("wait", cudaStreamSynchronize(stream), 1);
    error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
    if (!error)
        error = launched(values, stream);
    if (!error)
        error = cudaStreamEndCapture(stream, &graph);
    if (!error)
        error = cudaGraphInstantiate(&exec, graph, 0);
    if (!error)
        error = cudaGraphLaunch(exec, stream);
    say("graph", error ? error : cudaDeviceSynchronize(), 1);
    say("too_much", cudaMalloc(&much, size_t{100} << 30), 1);
    return 0;
}
