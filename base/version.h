/* The version of this build: what --version prints and a site reports. It stands in the file
 * VERSION alone; the Makefile hands it to base/version.c. */
#ifndef BASE_VERSION_H
#define BASE_VERSION_H

extern const char atoll_version[]; /* "0.1.0" */

#endif
