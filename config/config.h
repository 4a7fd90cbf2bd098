/* Config files: YAML into a program's option table (base/options.h). Strict: a key the table does
 * not know refuses the file and names the nearest one, with file and line. Nested mappings and
 * dotted keys are the same thing.
 */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include "base/bytes.h"
#include "base/options.h"
#include "base/status.h"

enum { CONFIG_SIZE_MAX = 1 << 20 };

/* For options_setup.load_file. NOT_FOUND if there is no such file; INVALID with file, line and what
 * to do. */
MUST_USE enum status config_load(struct options *options, const char *path, struct error *error);
/* The same from memory; `name` opens the messages. */
MUST_USE enum status config_load_text(struct options *options, struct bytes text, const char *name,
                                      struct error *error);
/* Appends a YAML scalar that any YAML reader gives back as exactly this text (not as a number,
 * boolean or null): bare where that is safe, else in double quotes with escapes. One text has one
 * form, so what is digested may be written with it. `text` is UTF-8; numbers and booleans are
 * written bare, without this. */
void config_quote(const char *text, struct buffer *out);

#endif
