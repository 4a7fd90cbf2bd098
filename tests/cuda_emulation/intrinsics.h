// The intrinsics of the codec's kernels, for cuda_runtime.h.
#ifndef TESTS_CUDA_EMULATION_INTRINSICS_H
#define TESTS_CUDA_EMULATION_INTRINSICS_H

template <class T> T __shfl_up_sync(unsigned, T value, unsigned reach) {
    emulation::exchange<T> exchange(value);
    unsigned lane = threadIdx.x & 31u;
    return exchange.of(lane >= reach ? lane - reach : lane);
}

template <class T> T atomicMin(T *at, T value) {
    T old = *at;
    if (value < old) *at = value;
    return old;
}
template <class T> T atomicMax(T *at, T value) {
    T old = *at;
    if (value > old) *at = value;
    return old;
}
inline unsigned long long atomicAdd(unsigned long long *at, unsigned long long value) {
    unsigned long long old = *at;
    *at += value;
    return old;
}
inline unsigned atomicOr(unsigned *at, unsigned value) {
    unsigned old = *at;
    *at |= value;
    return old;
}

inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) { return value ? __builtin_clz(static_cast<unsigned>(value)) : 32; }
inline long long __double_as_longlong(double value) {
    long long bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline double __longlong_as_double(long long bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float __double2float_rn(double value) { return static_cast<float>(value); }

#endif
