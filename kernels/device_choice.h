/* Where a program is asked to compute: --device. */
#ifndef KERNELS_DEVICE_CHOICE_H
#define KERNELS_DEVICE_CHOICE_H

/* AUTO: on a CUDA device where there is one that can, else on the CPU. Zero is the CPU, so that
 * options which name nothing need no device. */
enum device_choice { DEVICE_CPU, DEVICE_CUDA, DEVICE_AUTO };
/* "cpu", "cuda", "auto", then NULL. */
extern const char *const device_choice_names[];

#endif
