/* For programs that hold private keys: a crash writes what they hold to no disk, and no other
 * process of the same user reads it. */
#ifndef BASE_SECRECY_H
#define BASE_SECRECY_H

/* No core dumps (also where a handler takes them, which asks no limit), no debugger of the same
 * user. First in main, before a key is read. A system that refuses changes nothing. */
void secrecy_begin(void);

#endif
