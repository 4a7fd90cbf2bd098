/* A run of the workbench as JSON: its rules, its figures, every evaluation, every site. */
#ifndef EXPERIMENT_TRAIN_REPORT_H
#define EXPERIMENT_TRAIN_REPORT_H

#include "experiment/train.h"

/* Appends one object. record: what train_run filled. */
void train_report(const struct train_options *options, const struct train_result *result,
                  const struct train_record *record, struct buffer *out);

#endif
