/*
 * What the parts of the library know of each other. Nothing of it is seen from outside.
 *
 * disk_faults.c: which files are ours, and how the library comes up. journal.c: records and graves. bytes.c: syncs,
 * writes and lengths. names.c: what makes, moves and takes away names. crash.c: the end of the process at such a call,
 * and which files counted faults meet.
 */
#ifndef DISK_FAULTS_WATCH_H
#define DISK_FAULTS_WATCH_H

#undef _FORTIFY_SOURCE
#undef _FILE_OFFSET_BITS
#undef _TIME_BITS
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "layout.h"

#if !defined(__linux__) || !defined(__LP64__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "this library knows 64-bit little-endian Linux only"
#endif

/* What stands in a call of libc is seen by everybody, the rest of this library by nobody. */
#define INSTEAD __attribute__((visibility("default")))
#pragma GCC visibility push(hidden)

/* === what this process knows: disk_faults.c === */

/* A file that this process has written or synced. */
struct file {
    _Atomic uint64_t inode;
    _Atomic uint64_t synced_bytes;
    _Atomic uint64_t overwrite_noted;
};

/* A name in a directory of ours. */
struct place {
    uint64_t directory;
    size_t length;
    char name[NAME_MAX + 1];
};

/* Where everything is; NULL as long as this library does nothing. Set once, before any other thread runs. */
extern struct control *control;
extern int journal;
extern dev_t root_device;
extern char graveyard[PATH_MAX];

void forget(int fd);
bool ours(int fd, struct stat *now);
bool path_of(int fd, char path[PATH_MAX]);
bool below_root(const char *path);
bool find_place(int directory, const char *path, struct place *place);
struct file *find_file(uint64_t inode, uint64_t synced_bytes);
char *put_number(char *to, uint64_t number, unsigned base);
char *put_text(char *to, const char *text);

/* === records and graves: journal.c === */

/* A second name of a file that is about to lose one. Empty when it could not be made. */
struct grave {
    char path[PATH_MAX + 64];
};

struct slot *attach(void);
void after_fork(void);
uint64_t append(struct record record, const struct place *first, const struct place *second);
void note_overwrite(struct file *file);
void note_truncation(uint64_t inode, uint64_t bytes);
void bury(int directory, const char *path, struct grave *grave);
void exhume(struct grave *grave);
void mark(struct grave *grave, uint64_t directory, uint64_t sequence);
void purge(uint64_t directory, uint64_t began);

/* === the end of the process, and who is meant: crash.c === */

bool is_meant(int fd);
enum ending begin_call(enum call call, const char *name);
enum ending begin_call_on(enum call call, int fd);
void end_call(enum ending ending);

/* === the calls that come next === */

#define CALLS(X)                                                                                                       \
    X(openat) X(fopen) X(close) X(fclose) X(closedir) X(dup2) X(dup3) X(write) X(pwrite) X(writev) X(pwritev)          \
    X(ftruncate) X(truncate) X(fallocate) X(fsync) X(fdatasync) X(renameat2) X(linkat) X(unlinkat) X(mkdirat)

#define DECLARE(name) extern _Atomic(void *) next_##name;
CALLS(DECLARE)

void *find_next(_Atomic(void *) *known, const char *name);
#define NEXT(name) ((__typeof__(&name))find_next(&next_##name, #name))

/* === numbers that others change too === */

static inline void add(_Atomic uint64_t *counter, uint64_t count)
{
    atomic_fetch_add_explicit(counter, count, memory_order_acq_rel);
}

static inline uint64_t get(_Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_acquire);
}

static inline void set(_Atomic uint64_t *value, uint64_t to)
{
    atomic_store_explicit(value, to, memory_order_release);
}

/* The next number of a count, from 1. */
static inline uint64_t count(_Atomic uint64_t *counter)
{
    return atomic_fetch_add_explicit(counter, 1, memory_order_acq_rel) + 1;
}

/* Takes one of what is left; false when nothing is. */
static inline bool take(_Atomic uint64_t *left)
{
    uint64_t seen = get(left);
    while (seen > 0) {
        if (atomic_compare_exchange_weak_explicit(left, &seen, seen - 1, memory_order_acq_rel, memory_order_acquire)) {
            return true;
        }
    }
    return false;
}

#pragma GCC visibility pop
#endif
