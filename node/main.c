/* atoll-node: a site of a run. Options and verbs are node/settings.c's, the daemon is
 * node/daemon.h. */
#include <unistd.h>

#include "base/ending.h"
#include "base/limits.h"
#include "base/secrecy.h"
#include "base/streams.h"
#include "node/verbs.h"
#include "storage/store_guard.h"

int main(int argc, char **argv) {
    secrecy_begin();
    streams_open();
    ending_begin(ENDING_BY_SIGNAL);
    store_guard(node_command.name, EXIT_HALTED,
                "journal, payloads and state in the site's directory may be deleted, they are "
                "fetched again (keep node.key)");
    (void)!limits_raise_descriptors(NULL, NULL);
    struct settings settings = {0};
    struct options *options = options_create(&node_command, &settings);
    int code = settings_read(options, argc, argv, environ);
    if (code == OPTIONS_GO_ON) code = options_command(options)->run(options, &settings);
    options_destroy(options);
    return streams_close(node_command.name, code);
}
