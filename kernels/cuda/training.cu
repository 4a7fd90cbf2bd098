// The second exported function, and what has to do with streams, memory and the recorded step
// rather than with arithmetic.
#include <cstdlib>

#include "kernels/cuda/attention.cuh"

namespace {

void close_session(cuda_session *session) {
    if (!session) return;
    matmul_close(session->matmuls);
    attention_choices_close(session->attention);
    if (session->step) (void)cudaGraphExecDestroy(session->step);
    if (session->arrived) (void)cudaEventDestroy(session->arrived);
    if (session->taken) (void)cudaEventDestroy(session->taken);
    if (session->copies) (void)cudaStreamDestroy(session->copies);
    if (session->stream) (void)cudaStreamDestroy(session->stream);
    free(session);
}

const char *fill_session(const char *cache, cuda_session *session) {
    TRY_CUDA(cudaStreamCreateWithFlags(&session->stream, cudaStreamNonBlocking));
    TRY_CUDA(cudaStreamCreateWithFlags(&session->copies, cudaStreamNonBlocking));
    TRY_CUDA(cudaEventCreateWithFlags(&session->arrived, cudaEventDisableTiming));
    TRY_CUDA(cudaEventCreateWithFlags(&session->taken, cudaEventDisableTiming));
    TRY_CUDA(attention_choices_open(cache, &session->attention));
    return matmul_open(cache, &session->matmuls);
}

const char *open_session(const char *cache, cuda_session **out) {
    cuda_session *session = static_cast<cuda_session *>(calloc(1, sizeof *session));
    if (!session) return fail(CUDA_FAILURE_MEMORY, "out of host memory");
    const char *why = fill_session(cache, session);
    if (why) {
        close_session(session);
        return why;
    }
    *out = session;
    return nullptr;
}

const char *wait(cuda_session *session) {
    const char *why = answer_of(cudaStreamSynchronize(session->stream), "cudaStreamSynchronize");
    return why ? hopper_attention_explain(attention_hopper(session->attention), why) : nullptr;
}

const char *upload(cuda_session *session, struct device_memory to, const void *from, size_t size) {
    TRY_CUDA(cudaMemcpyAsync(device_pointer<void>(to), from, size, cudaMemcpyHostToDevice,
                             session->stream));
    return wait(session);
}

const char *download(cuda_session *session, void *to, struct device_memory from, size_t size) {
    TRY_CUDA(cudaMemcpyAsync(to, device_pointer<void>(from), size, cudaMemcpyDeviceToHost,
                             session->stream));
    return wait(session);
}

const char *send(cuda_session *session, struct device_memory to, const void *pinned, size_t size) {
    TRY_CUDA(cudaMemcpyAsync(device_pointer<void>(to), pinned, size, cudaMemcpyHostToDevice,
                             session->stream));
    return nullptr;
}

// An event that was never recorded is waited for in no time.
const char *stage(cuda_session *session, struct device_memory incoming, const void *pinned,
                  size_t size) {
    TRY_CUDA(cudaStreamWaitEvent(session->copies, session->taken, 0));
    TRY_CUDA(cudaMemcpyAsync(device_pointer<void>(incoming), pinned, size, cudaMemcpyHostToDevice,
                             session->copies));
    TRY_CUDA(cudaEventRecord(session->arrived, session->copies));
    return nullptr;
}

const char *receive(cuda_session *session, struct device_memory to, struct device_memory incoming,
                    size_t size) {
    TRY_CUDA(cudaStreamWaitEvent(session->stream, session->arrived, 0));
    TRY_CUDA(cudaMemcpyAsync(device_pointer<void>(to), device_pointer<void>(incoming), size,
                             cudaMemcpyDeviceToDevice, session->stream));
    TRY_CUDA(cudaEventRecord(session->taken, session->stream));
    return nullptr;
}

const char *zero(cuda_session *session, struct device_memory memory, size_t size) {
    TRY_CUDA(cudaMemsetAsync(device_pointer<void>(memory), 0, size, session->stream));
    return nullptr;
}

const char *capture_begin(cuda_session *session) {
    TRY_CUDA(cudaStreamBeginCapture(session->stream, cudaStreamCaptureModeThreadLocal));
    return nullptr;
}

const char *capture_end(cuda_session *session) {
    cudaGraph_t graph = nullptr;
    TRY_CUDA(cudaStreamEndCapture(session->stream, &graph));
    if (session->step) (void)cudaGraphExecDestroy(session->step);
    session->step = nullptr;
    const char *why =
        answer_of(cudaGraphInstantiate(&session->step, graph, 0), "cudaGraphInstantiate");
    (void)cudaGraphDestroy(graph);
    return why;
}

const char *replay(cuda_session *session) {
    if (!session->step) return fail(CUDA_FAILURE_INPUT, "no step was recorded");
    TRY_CUDA(cudaGraphLaunch(session->step, session->stream));
    return nullptr;
}

} // namespace

extern "C" const struct cuda_training *atoll_cuda_training(void);
extern "C" const struct cuda_training *atoll_cuda_training(void) {
    static struct cuda_training training = {};
    training.version = CUDA_TRAINING_VERSION;
    training.struct_size = sizeof training;
    training.open = open_session;
    training.close = close_session;
    training.upload = upload;
    training.download = download;
    training.send = send;
    training.stage = stage;
    training.receive = receive;
    training.zero = zero;
    training.wait = wait;
    training.capture_begin = capture_begin;
    training.capture_end = capture_end;
    training.replay = replay;
    attention_install(&training);
    attention_choice_install(&training);
    norm_install(&training);
    layers_install(&training);
    optimizer_install(&training);
    matmul_install(&training);
    return &training;
}
