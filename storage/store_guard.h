/* What a damaged store says before it ends the process.
 *
 * Records have digests, LMDB's pages do not: a flipped bit in one can make LMDB read where the file
 * has ended, which is a SIGBUS, or find its own assertions broken, which is an abort. Both come
 * again at every start, and say nothing. With the guard the process says which file is damaged and
 * ends with the exit code for what a restart only meets again. So does a disk that cannot read a
 * page of the file.
 */
#ifndef STORAGE_STORE_GUARD_H
#define STORAGE_STORE_GUARD_H

/* Once, at the start of a program, before its threads. Other faults end the process as they did. */
void store_guard(const char *program, int exit_code, const char *advice); /* texts: static */

#endif
