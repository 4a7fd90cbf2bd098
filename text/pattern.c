/* Compiles and runs the regular expressions of tokenizers (text/pattern.h): a backtracking matcher
 * with a budget of steps. Patterns come from strangers: what is not understood is refused by name.
 */
#include "text/pattern.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "text/unicode_table.h"

enum { NODES_MAX = 512, ITEMS_MAX = 512, PATTERN_MAX = 4096, DEPTH_MAX = 32, REPEAT_MAX = 1 << 30 };

enum { SPACE = 1u << 31 }; /* of a mask: \s, beside a bit a category */

struct item { /* lo..hi, or a mask of categories */
    uint32_t lo, hi, mask;
    bool negated;
};

enum node_kind { NODE_EMPTY, NODE_ACCEPT, NODE_SET, NODE_SPLIT, NODE_LOOK };

struct node {
    enum node_kind kind;
    int next, other;          /* other: SPLIT's second way, LOOK's body */
    uint32_t first, count;    /* of SET's items */
    uint32_t least, most;     /* of SET */
    bool negated, possessive; /* negated: of SET and LOOK */
    bool any_case;
};

struct pattern {
    struct node nodes[NODES_MAX];
    struct item items[ITEMS_MAX];
    int node_count, start;
    uint32_t item_count;
};

/* ---- characters ------------------------------------------------------------------------------ */

uint32_t utf8_next(struct bytes text, size_t *at) {
    const uint8_t *c = text.data + *at;
    size_t length = utf8_length(c, text.size - *at);
    *at += MAX(length, (size_t)1);
    if (length <= 1) return c[0];
    uint32_t point = c[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) point = point << 6 | (c[i] & 0x3fu);
    return point;
}

static uint32_t category_of(uint32_t point) {
    size_t low = 0, high = COUNT_OF(unicode_categories);
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (unicode_categories[middle] >> 8 <= point)
            low = middle;
        else
            high = middle;
    }
    return unicode_categories[low] & 0xff;
}

bool unicode_is_space(uint32_t c) { /* White_Space */
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

static uint32_t fold(uint32_t c) {
    if (c >= 'A' && c <= 'Z') return c + 32;
    return c == 0x17f ? 's' : c == 0x212a ? 'k' : c;
}

static bool set_has(const struct pattern *p, const struct node *set, uint32_t point) {
    bool has = false;
    for (uint32_t i = 0; i < set->count && !has; i++) {
        const struct item *item = &p->items[set->first + i];
        bool in = item->mask ? (item->mask == SPACE ? unicode_is_space(point)
                                                    : (item->mask >> category_of(point) & 1) != 0)
                             : point >= item->lo && point <= item->hi;
        if (set->any_case && !item->mask)
            in = in || (item->lo == item->hi && fold(point) == fold(item->lo));
        has = in != item->negated;
    }
    return has != set->negated;
}

/* ---- compiling ------------------------------------------------------------------------------- */

struct pattern_parser {
    struct pattern *out;
    struct bytes text;
    size_t at;
    int depth;
    bool any_case;
    struct error *error;
};

struct fragment { /* ends in an EMPTY node whose next is still open */
    int start, end;
};

static enum status refuse(struct pattern_parser *p, const char *what) {
    return error_set(p->error, INVALID, "pattern at %zu: %s (near \"%.16s\")", p->at, what,
                     (const char *)p->text.data + p->at);
}

static int peek(const struct pattern_parser *p) {
    return p->at < p->text.size ? p->text.data[p->at] : -1;
}

static bool accept(struct pattern_parser *p, const char *word) {
    size_t size = strlen(word);
    if (p->text.size - p->at < size || memcmp(p->text.data + p->at, word, size) != 0) return false;
    p->at += size;
    return true;
}

static enum status new_node(struct pattern_parser *p, enum node_kind kind, int *out) {
    if (p->out->node_count == NODES_MAX) return refuse(p, "it is too long");
    *out = p->out->node_count++;
    p->out->nodes[*out] = (struct node){
        .kind = kind, .next = -1, .other = -1, .least = 1, .most = 1, .any_case = p->any_case};
    return OK;
}

static enum status add_item(struct pattern_parser *p, struct item item) {
    if (p->out->item_count == ITEMS_MAX) return refuse(p, "it has too many classes");
    p->out->items[p->out->item_count++] = item;
    return OK;
}

static enum status parse_property(struct pattern_parser *p, bool negated) {
    static const char names[][3] = {"Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd",
                                    "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm",
                                    "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};
    char name[4] = "";
    size_t size = 0;
    if (!accept(p, "{")) return refuse(p, "\\p without {");
    while (peek(p) != '}' && peek(p) >= 0 && size < 3) name[size++] = (char)p->text.data[p->at++];
    if (!accept(p, "}")) return refuse(p, "this property is unknown");
    uint32_t mask = 0;
    for (uint32_t i = 0; i < COUNT_OF(names); i++)
        if (strcmp(name, names[i]) == 0 || (size == 1 && name[0] == names[i][0])) mask |= 1u << i;
    if (mask == 0) return refuse(p, "this property is unknown");
    return add_item(p, (struct item){.mask = mask, .negated = negated});
}

/* After a backslash. *single: a character that may begin or end a range. */
static enum status parse_escape(struct pattern_parser *p, uint32_t *single) {
    int c = peek(p);
    *single = 0;
    if (c >= 0) p->at++;
    switch (c) {
    case 's': return add_item(p, (struct item){.mask = SPACE});
    case 'S': return add_item(p, (struct item){.mask = SPACE, .negated = true});
    case 'd': return add_item(p, (struct item){.mask = 1u << UNICODE_ND});
    case 'p': return parse_property(p, false);
    case 'P': return parse_property(p, true);
    case 'r': *single = '\r'; return OK;
    case 'n': *single = '\n'; return OK;
    case 't': *single = '\t'; return OK;
    default:
        if (c < '!' || c > '~' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z'))
            return refuse(p, "this escape is not supported");
        *single = (uint32_t)c;
        return OK;
    }
}

static enum status parse_single(struct pattern_parser *p, uint32_t *single) {
    if (accept(p, "\\")) return parse_escape(p, single);
    *single = utf8_next(p->text, &p->at);
    return OK;
}

static enum status parse_class(struct pattern_parser *p, bool *negated) {
    *negated = accept(p, "^");
    for (bool first = true; first || peek(p) != ']'; first = false) {
        if (peek(p) < 0) return refuse(p, "a class has no end");
        if (peek(p) == '[' || accept(p, "&&"))
            return refuse(p, "classes in classes are not supported");
        uint32_t low, high;
        TRY(parse_single(p, &low));
        if (low == 0) continue;
        high = low;
        if (peek(p) == '-' && p->at + 1 < p->text.size && p->text.data[p->at + 1] != ']') {
            p->at++;
            TRY(parse_single(p, &high));
            if (high < low) return refuse(p, "a range runs backwards");
        }
        TRY(add_item(p, (struct item){.lo = low, .hi = high}));
    }
    p->at++;
    return OK;
}

static bool parse_number(struct pattern_parser *p, uint32_t *out) {
    size_t from = p->at;
    uint32_t value = 0;
    while (peek(p) >= '0' && peek(p) <= '9' && value < 100000)
        value = value * 10 + (uint32_t)(p->text.data[p->at++] - '0');
    *out = value;
    return p->at > from;
}

/* *there: a quantifier stood here. */
static enum status parse_quantifier(struct pattern_parser *p, struct node *node, bool *there) {
    *there = true;
    if (accept(p, "?"))
        node->least = 0;
    else if (accept(p, "*"))
        node->least = 0, node->most = REPEAT_MAX;
    else if (accept(p, "+"))
        node->most = REPEAT_MAX;
    else if (accept(p, "{")) {
        if (!parse_number(p, &node->least)) return refuse(p, "a count is missing");
        node->most = node->least;
        if (accept(p, ",") && !parse_number(p, &node->most)) node->most = REPEAT_MAX;
        if (!accept(p, "}") || node->most < node->least || node->most == 0)
            return refuse(p, "this count makes no sense");
        return OK; /* {m,n}+ would be something else in Oniguruma: refused as a second quantifier */
    } else {
        *there = false;
        return OK;
    }
    node->possessive = accept(p, "+");
    return peek(p) == '?' ? refuse(p, "lazy quantifiers are not supported") : OK;
}

static enum status parse_alternatives(struct pattern_parser *p, struct fragment *out);

static enum status parse_group(struct pattern_parser *p, struct fragment *out) {
    bool look = false, negated = false, before = p->any_case;
    if (accept(p, "?=") || accept(p, "?!"))
        look = true, negated = p->text.data[p->at - 1] == '!';
    else if (accept(p, "?i:"))
        p->any_case = true;
    else if (!accept(p, "?:") && peek(p) == '?')
        return refuse(p, "this kind of group is not supported");
    TRY(parse_alternatives(p, out));
    p->any_case = before;
    if (!accept(p, ")")) return refuse(p, "a group has no end");
    int node, end;
    TRY(new_node(p, NODE_EMPTY, &end));
    struct node quantifier = {.least = 1, .most = 1};
    if (look) {
        TRY(new_node(p, NODE_LOOK, &node));
        p->out->nodes[out->end].kind = NODE_ACCEPT;
        p->out->nodes[node].other = out->start, p->out->nodes[node].next = end,
        p->out->nodes[node].negated = negated;
        *out = (struct fragment){node, end};
        return OK;
    }
    bool there;
    TRY(parse_quantifier(p, &quantifier, &there));
    if (quantifier.most != 1 || quantifier.possessive)
        return refuse(p, "a group may only be optional");
    p->out->nodes[out->end].next = end;
    if (quantifier.least == 0) {
        TRY(new_node(p, NODE_SPLIT, &node));
        p->out->nodes[node].next = out->start, p->out->nodes[node].other = end;
        out->start = node;
    }
    out->end = end;
    return OK;
}

static enum status parse_piece(struct pattern_parser *p, struct fragment *out) {
    int c = peek(p), node, end;
    if (accept(p, "(")) return parse_group(p, out);
    if (c == '^' || c == '$' || c == '.' || c == '?' || c == '*' || c == '+' || c == '{')
        return refuse(p, "this is not supported here");
    TRY(new_node(p, NODE_SET, &node));
    struct node *set = &p->out->nodes[node];
    set->first = p->out->item_count;
    if (accept(p, "[")) {
        TRY(parse_class(p, &set->negated));
    } else {
        uint32_t single;
        TRY(parse_single(p, &single));
        if (single) TRY(add_item(p, (struct item){.lo = single, .hi = single}));
    }
    set->count = p->out->item_count - set->first;
    bool there;
    TRY(parse_quantifier(p, set, &there));
    TRY(new_node(p, NODE_EMPTY, &end));
    set->next = end;
    *out = (struct fragment){node, end};
    return OK;
}

static enum status parse_sequence(struct pattern_parser *p, struct fragment *out) {
    int node;
    TRY(new_node(p, NODE_EMPTY, &node));
    *out = (struct fragment){node, node};
    while (peek(p) >= 0 && peek(p) != '|' && peek(p) != ')') {
        struct fragment piece;
        TRY(parse_piece(p, &piece));
        p->out->nodes[out->end].next = piece.start;
        out->end = piece.end;
    }
    return OK;
}

static enum status parse_alternatives(struct pattern_parser *p, struct fragment *out) {
    if (++p->depth > DEPTH_MAX) return refuse(p, "groups are nested too deeply");
    TRY(parse_sequence(p, out));
    int end = out->end, last = -1;
    while (accept(p, "|")) {
        struct fragment other;
        int split;
        TRY(new_node(p, NODE_SPLIT, &split));
        TRY(parse_sequence(p, &other));
        p->out->nodes[split].next = last < 0 ? out->start : p->out->nodes[last].other;
        p->out->nodes[split].other = other.start;
        if (last < 0)
            out->start = split;
        else
            p->out->nodes[last].other = split;
        last = split;
        int joined;
        TRY(new_node(p, NODE_EMPTY, &joined));
        p->out->nodes[end].next = joined, p->out->nodes[other.end].next = joined;
        end = joined;
    }
    out->end = end;
    p->depth--;
    return OK;
}

enum status pattern_compile(const char *text, struct pattern **out, struct error *error) {
    struct pattern_parser p = {.text = bytes_of(text, strlen(text)), .error = error};
    if (p.text.size == 0 || p.text.size > PATTERN_MAX)
        return error_set(error, INVALID, "a pattern has %zu bytes; 1 to %d are supported",
                         p.text.size, PATTERN_MAX);
    p.out = xcalloc(1, sizeof *p.out);
    struct fragment whole;
    enum status status = parse_alternatives(&p, &whole);
    if (status == OK && p.at < p.text.size) status = refuse(&p, "a group ends that never began");
    if (status != OK) {
        free(p.out);
        return status;
    }
    p.out->nodes[whole.end].kind = NODE_ACCEPT;
    p.out->start = whole.start;
    *out = p.out;
    return OK;
}

void pattern_free(struct pattern *pattern) { free(pattern); }

/* ---- matching -------------------------------------------------------------------------------- */

struct match {
    const struct pattern *p;
    struct bytes text;
    uint64_t steps;
};

enum { NO_MATCH = -1 };

static ptrdiff_t match_from(struct match *m, int index, size_t at);

static ptrdiff_t match_set(struct match *m, const struct node *set, size_t at) {
    uint32_t count = 0;
    while (count < set->most && at < m->text.size) {
        size_t next = at;
        if (!set_has(m->p, set, utf8_next(m->text, &next))) break;
        at = next, count++, m->steps++;
    }
    for (;; count--) {
        if (count < set->least || m->steps > PATTERN_STEPS) return NO_MATCH;
        ptrdiff_t end = match_from(m, set->next, at);
        if (end != NO_MATCH || set->possessive || count == set->least) return end;
        do at--;
        while ((m->text.data[at] & 0xc0) == 0x80);
    }
}

static ptrdiff_t match_from(struct match *m, int index, size_t at) {
    while (m->steps++ <= PATTERN_STEPS) {
        const struct node *node = &m->p->nodes[index];
        switch (node->kind) {
        case NODE_ACCEPT: return (ptrdiff_t)at;
        case NODE_SET: return match_set(m, node, at);
        case NODE_EMPTY: index = node->next; break;
        case NODE_LOOK:
            if ((match_from(m, node->other, at) != NO_MATCH) == node->negated) return NO_MATCH;
            index = node->next;
            break;
        case NODE_SPLIT: {
            ptrdiff_t end = match_from(m, node->next, at);
            if (end != NO_MATCH) return end;
            index = node->other;
        }
        }
    }
    return NO_MATCH;
}

enum status pattern_find(const struct pattern *pattern, struct bytes text, size_t from,
                         size_t *begin, size_t *end, struct error *error) {
    for (size_t at = from; at < text.size; utf8_next(text, &at)) {
        struct match m = {pattern, text, 0};
        ptrdiff_t to = match_from(&m, pattern->start, at);
        if (m.steps > PATTERN_STEPS)
            return error_set(error, INVALID, "the tokenizer's pattern takes too long on this text");
        if (to == NO_MATCH || (size_t)to == at) continue;
        *begin = at, *end = (size_t)to;
        return OK;
    }
    *begin = *end = text.size;
    return OK;
}
