/* model/trainer.h for files that also see fed/: model/schedule.h and fed/manifest.h each have an `enum schedule_shape` with the
 * same enumerators in another order, so here model/'s go by other names. Include this, never model/trainer.h. */
#ifndef NODE_MODEL_TRAINER_H
#define NODE_MODEL_TRAINER_H

#define schedule_shape model_schedule_shape
#define SCHEDULE_CONSTANT MODEL_SCHEDULE_CONSTANT
#define SCHEDULE_COSINE MODEL_SCHEDULE_COSINE
#define SCHEDULE_LINEAR MODEL_SCHEDULE_LINEAR
#include "model/trainer.h"
#undef schedule_shape
#undef SCHEDULE_CONSTANT
#undef SCHEDULE_COSINE
#undef SCHEDULE_LINEAR

#endif
