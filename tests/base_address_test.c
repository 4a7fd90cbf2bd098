#include "base/address.h"

#include "base/memory.h"
#include "tests/test.h"

static void is(const char *text, enum address_use use, const char *host, int port) {
    struct address address;
    struct error error = {0};
    if (address_parse(text, use, &address, &error) != OK)
        test_failed(__FILE__, __LINE__, "%s: %s", text, error.message);
    CHECK_TEXT(address.host, host);
    CHECK_EQUAL(address.port, port);
}

static void is_not(const char *text, enum address_use use, const char *because) {
    struct address address;
    struct error error = {0};
    if (address_parse(text, use, &address, &error) != INVALID)
        test_failed(__FILE__, __LINE__, "\"%s\" is taken", text);
    if (!strstr(error.message, because))
        test_failed(__FILE__, __LINE__, "\"%s\": %s", text, error.message);
}

TEST(names_and_addresses_of_both_kinds_are_read) {
    is("coordinator.example:7400", ADDRESS_TO_CONNECT, "coordinator.example", 7400);
    is("coordinator.example.:1", ADDRESS_TO_CONNECT, "coordinator.example.", 1);
    is("a_b-c:65535", ADDRESS_TO_CONNECT, "a_b-c", 65535);
    is("192.0.2.1:7400", ADDRESS_TO_CONNECT, "192.0.2.1", 7400);
    is("[2001:db8::1]:7400", ADDRESS_TO_CONNECT, "2001:db8::1", 7400);
    is("[::ffff:192.0.2.1]:7400", ADDRESS_TO_CONNECT, "::ffff:192.0.2.1", 7400);
    is("[fe80::1%eth0.2]:7400", ADDRESS_TO_CONNECT, "fe80::1%eth0.2", 7400);
    is("0.0.0.0:0", ADDRESS_TO_LISTEN, "0.0.0.0", 0);
    is("[::]:7400", ADDRESS_TO_LISTEN, "::", 7400);
    is("3com.example:7400", ADDRESS_TO_CONNECT, "3com.example", 7400);
}

TEST(a_port_is_never_guessed_nor_cut) {
    is_not("coordinator.example", ADDRESS_TO_CONNECT,
           "has no port: write coordinator.example:7400");
    is_not("coordinator.example:", ADDRESS_TO_CONNECT, "has no port");
    is_not("[::1]", ADDRESS_TO_CONNECT, "has no port: write [::1]:7400");
    is_not("0.0.0.0", ADDRESS_TO_LISTEN, "has no port: write 0.0.0.0:7400");
    is_not("127.0.0.1:99999", ADDRESS_TO_LISTEN, "from 0 to 65535");
    is_not("127.0.0.1:65536", ADDRESS_TO_CONNECT, "from 1 to 65535");
    is_not("127.0.0.1:18446744073709559016", ADDRESS_TO_CONNECT, "from 1 to 65535");
    is_not("127.0.0.1:0", ADDRESS_TO_CONNECT, "from 1 to 65535");
    is_not("host:-1", ADDRESS_TO_CONNECT, "the port is not a number");
    is_not("host:+1", ADDRESS_TO_CONNECT, "the port is not a number");
    is_not("host:https", ADDRESS_TO_CONNECT, "the port is not a number");
    is_not("host:7400x", ADDRESS_TO_CONNECT, "the port is not a number");
    is_not("host:0x1c", ADDRESS_TO_CONNECT, "the port is not a number");
}

TEST(what_is_pasted_around_an_address_is_named) {
    is_not("https://coordinator.example:7400", ADDRESS_TO_CONNECT, "begins with https://");
    is_not("grpc://coordinator.example:7400", ADDRESS_TO_CONNECT, "begins with grpc://");
    is_not("dns:///coordinator.example:7400", ADDRESS_TO_CONNECT, "begins with dns://");
    is_not("unix:/run/atoll", ADDRESS_TO_LISTEN, "begins with unix:");
    is_not("coordinator.example:7400/", ADDRESS_TO_CONNECT, "has a path after the port");
    is_not("me@coordinator.example:7400", ADDRESS_TO_CONNECT, "has an @ in it");
    is_not(" coordinator.example:7400", ADDRESS_TO_CONNECT, "has a space");
    is_not("coordinator.example:7400\n", ADDRESS_TO_CONNECT, "has a space or a control character");
    is_not("coordinator.example: 7400", ADDRESS_TO_CONNECT, "has a space");
    is_not("", ADDRESS_TO_CONNECT, "is empty");
    is_not("k\xc3\xb6ln.example:7400", ADDRESS_TO_CONNECT, "xn--");
}

TEST(a_host_is_there_and_is_one) {
    is_not(":7400", ADDRESS_TO_CONNECT, "names no host: write HOST:PORT");
    is_not(":7400", ADDRESS_TO_LISTEN, "names no host: write 0.0.0.0:PORT");
    is_not("*:7400", ADDRESS_TO_LISTEN, "write 0.0.0.0:PORT");
    is_not("[]:7400", ADDRESS_TO_CONNECT, "names no host");
    is_not("0.0.0.0:7400", ADDRESS_TO_CONNECT, "is for listening");
    is_not("[::]:7400", ADDRESS_TO_CONNECT, "is for listening");
    is_not("[0:0::0]:7400", ADDRESS_TO_CONNECT, "is for listening");
    is_not("300.1.1.1:7400", ADDRESS_TO_CONNECT, "not an IPv4 address");
    is_not("10.1:7400", ADDRESS_TO_CONNECT, "not an IPv4 address");
    is_not("7400", ADDRESS_TO_CONNECT, "names no host: write HOST:7400");
    is_not("::1", ADDRESS_TO_CONNECT, "in brackets: [::1]:7400");
    is_not("2001:db8::1:7400", ADDRESS_TO_CONNECT, "in brackets");
    is_not("host:1:2", ADDRESS_TO_CONNECT, "more than one colon");
    is_not("[::1:7400", ADDRESS_TO_CONNECT, "the bracket is not closed");
    is_not("[::1]7400", ADDRESS_TO_CONNECT, "after the bracket comes :PORT");
    is_not("[host]:7400", ADDRESS_TO_CONNECT, "not an IPv6 address");
    is_not("[127.0.0.1]:7400", ADDRESS_TO_CONNECT, "not an IPv6 address");
    is_not("[fe80::1%]:7400", ADDRESS_TO_CONNECT, "not an IPv6 address");
    is_not("a..b:7400", ADDRESS_TO_CONNECT, "not the name of a host");
    is_not("-a.b:7400", ADDRESS_TO_CONNECT, "not the name of a host");
    is_not("a,b:7400", ADDRESS_TO_CONNECT, "',' cannot be in the name");
    char long_name[400];
    memset(long_name, 'a', sizeof long_name);
    memcpy(long_name + 380, ":7400", sizeof ":7400");
    is_not(long_name, ADDRESS_TO_CONNECT, "253");
}

TEST(addresses_that_lead_back_to_this_machine_are_known) {
    static const struct {
        const char *text;
        bool local;
    } cases[] = {
        {"127.0.0.1:1", true},     {"127.3.4.5:1", true},      {"localhost:1", true},
        {"LOCALHOST.:1", true},    {"a.localhost:1", true},    {"[::1]:1", true},
        {"0.0.0.0:1", true},       {"[::]:1", true},           {"[::ffff:127.0.0.1]:1", true},
        {"128.0.0.1:1", false},    {"[2001:db8::1]:1", false}, {"localhost.example:1", false},
        {"notlocalhost:1", false}, {"[fe80::1%eth0]:1", false}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct address address;
        struct error error = {0};
        CHECK_OK(address_parse(cases[i].text, ADDRESS_TO_LISTEN, &address, &error));
        if (address_is_local(&address) != cases[i].local)
            test_failed(__FILE__, __LINE__, "%s", cases[i].text);
    }
}
