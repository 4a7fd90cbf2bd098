#include "rpc/proxy.h"

#include "base/memory.h"
#include "tests/test.h"

static char *environment[8];

static void set(const char *a, const char *b, const char *c) {
    const char *const all[] = {"HOME=/", a, b, c};
    size_t count = 0;
    for (size_t i = 0; i < COUNT_OF(all); i++) {
        if (all[i]) environment[count++] = (char *)(uintptr_t)all[i];
    }
    environment[count] = NULL;
}

/* Which proxy; "" for none. */
static const char *chosen(const char *setting, const char *server) {
    static char out[300];
    struct rpc_proxy proxy;
    struct error error = {0};
    CHECK_OK(rpc_proxy_choose(setting, server, environment, &proxy, &error));
    snprintf(out, sizeof out, "%s", proxy.address ? proxy.address : "");
    rpc_proxy_deinit(&proxy);
    return out;
}

TEST(a_setting_outranks_the_environment_and_none_is_no_proxy) {
    set("https_proxy=http://variable.example:3128", NULL, NULL);
    CHECK_TEXT(chosen("http://setting.example:8080", "server.example:7400"),
               "setting.example:8080");
    CHECK_TEXT(chosen("setting.example:8080", "127.0.0.1:7400"), "setting.example:8080");
    CHECK_TEXT(chosen("none", "server.example:7400"), "");
    CHECK_TEXT(chosen(NULL, "server.example:7400"), "variable.example:3128");
    CHECK_TEXT(chosen("", "server.example:7400"), "variable.example:3128");
    set(NULL, NULL, NULL);
    CHECK_TEXT(chosen(NULL, "server.example:7400"), "");
}

TEST(the_variables_are_looked_at_in_their_order_and_empty_ones_do_not_count) {
    set("http_proxy=http://c:1", "https_proxy=http://b:1", "grpc_proxy=http://a:1");
    CHECK_TEXT(chosen(NULL, "server:1"), "a:1");
    set("http_proxy=http://c:1", "https_proxy=http://b:1", "grpc_proxy=");
    CHECK_TEXT(chosen(NULL, "server:1"), "b:1");
    set("http_proxy=http://c:1", "HTTPS_PROXY=http://b:1/", NULL);
    CHECK_TEXT(chosen(NULL, "server:1"), "b:1");
    set("http_proxy=http://c:1", NULL, NULL);
    CHECK_TEXT(chosen(NULL, "server:1"), "c:1");
}

static bool exempt(const char *list, const char *server) {
    char *variable = xformat("no_proxy=%s", list);
    set("https_proxy=http://p:1", variable, NULL);
    bool is = *chosen(NULL, server) == 0;
    free(variable);
    return is;
}

TEST(exceptions_are_names_addresses_networks_and_ports) {
    CHECK(exempt("*", "server.example:7400"));
    CHECK(exempt("server.example", "server.example:7400"));
    CHECK(exempt("SERVER.example", "server.example.:7400"));
    CHECK(exempt("example", "server.example:7400"));
    CHECK(exempt("a, .example", "server.example:7400"));
    CHECK(exempt("*.example", "server.example:7400"));
    CHECK(exempt("server.example:7400", "server.example:7400"));
    CHECK(!exempt("server.example:7401", "server.example:7400"));
    CHECK(!exempt("rver.example", "server.example:7400"));
    CHECK(!exempt("server.example.org", "server.example:7400"));
    CHECK(!exempt("", "server.example:7400"));
    CHECK(exempt("10.0.0.0/8", "10.1.2.3:7400"));
    CHECK(!exempt("10.0.0.0/8", "11.1.2.3:7400"));
    CHECK(!exempt("10.0.0.0/8", "name.example:7400"));
    CHECK(exempt("10.1.2.3", "10.1.2.3:7400"));
    CHECK(!exempt("2.3", "10.1.2.3:7400"));
    CHECK(exempt("2001:db8::1", "[2001:db8:0::1]:7400"));
    CHECK(exempt("[2001:db8::1]:7400", "[2001:db8::1]:7400"));
    CHECK(!exempt("[2001:db8::1]:7401", "[2001:db8::1]:7400"));
    CHECK(exempt("2001:db8::/32", "[2001:db8::1]:7400"));
    CHECK(!exempt("2001:db8::/32", "[2001:db9::1]:7400"));
}

TEST(this_machine_is_not_sought_behind_another_machines_proxy) {
    set("https_proxy=http://proxy.example:3128", NULL, NULL);
    CHECK_TEXT(chosen(NULL, "127.0.0.1:7400"), "");
    CHECK_TEXT(chosen(NULL, "localhost:7400"), "");
    set("https_proxy=http://127.0.0.1:3128", NULL, NULL);
    CHECK_TEXT(chosen(NULL, "127.0.0.1:7400"), "127.0.0.1:3128");
}

static void header_is(const char *setting, const char *wanted) {
    struct rpc_proxy proxy;
    struct error error = {0};
    CHECK_OK(rpc_proxy_choose(setting, "server:1", NULL, &proxy, &error));
    CHECK_TEXT(proxy.header ? proxy.header : "", wanted);
    CHECK(!strstr(proxy.described, "@"));
    rpc_proxy_deinit(&proxy);
}

TEST(credentials_are_sent_as_rfc_7617_says) {
    header_is("http://proxy:1", "");
    header_is("http://Aladdin:open%20sesame@proxy:1",
              "Proxy-Authorization:Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    header_is("http://user@proxy:1", "Proxy-Authorization:Basic dXNlcjo=");
    header_is("http://user:p%40%3a%2F%25w@proxy:1", "Proxy-Authorization:Basic dXNlcjpwQDovJXc=");
    header_is("http://user:p@w@proxy:1", "Proxy-Authorization:Basic dXNlcjpwQHc=");
}

static void wrong(const char *setting, const char *because) {
    struct rpc_proxy proxy;
    struct error error = {0};
    CHECK_STATUS(rpc_proxy_check(setting, &error), INVALID);
    CHECK_CONTAINS(error.message, because);
    CHECK(!strstr(error.message, "secret"));
    char *variable = xformat("https_proxy=%s", setting);
    set(variable, NULL, NULL);
    error = (struct error){0};
    CHECK_STATUS(rpc_proxy_choose(NULL, "server:1", environment, &proxy, &error), INVALID);
    CHECK_CONTAINS(error.message, "https_proxy: ");
    CHECK_CONTAINS(error.message, because);
    CHECK(!strstr(error.message, "secret"));
    free(variable);
}

TEST(what_is_not_such_a_proxy_is_refused_and_no_password_is_repeated) {
    wrong("https://proxy:1", "a proxy by https is not supported");
    wrong("socks5://me:secret@proxy:1", "a proxy by socks5 is not supported");
    wrong("http://me:secret@proxy", "has no port");
    wrong("http://me:secret@:3128", "names no host");
    wrong("http://me:secret@proxy:99999", "a port is a number");
    wrong("http://me:secret@proxy:3128/path", "has a path");
    wrong("http://me:secret%2@proxy:3128", "cannot be read");
    wrong("http://me:secret%zz@proxy:3128", "cannot be read");
    wrong("http://", "is empty");
}
