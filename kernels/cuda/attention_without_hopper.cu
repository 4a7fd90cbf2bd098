// In attention_hopper*.cu's place where nvcc does not know compute 9.0's own instructions: there is
// nothing to choose.
#include "kernels/cuda/attention.cuh"

static const char *refuse() {
    return fail(CUDA_FAILURE_INPUT, "this library was built without wgmma");
}

const char *hopper_attention_open(hopper_attention **out) {
    *out = nullptr;
    return nullptr;
}
void hopper_attention_close(hopper_attention *) {}
bool hopper_attention_can(const hopper_attention *, unsigned) { return false; }
const char *hopper_attention_explain(const hopper_attention *, const char *why) { return why; }
const char *hopper_attention_forward(cuda_session *, const hopper_attention *,
                                     const attention_arguments &, unsigned) {
    return refuse();
}
const char *hopper_attention_backward(cuda_session *, const hopper_attention *,
                                      const attention_arguments &, unsigned) {
    return refuse();
}
