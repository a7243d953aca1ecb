/*
 * What the library and the test kit both know: the control file and the records of the journal.
 *
 * The test kit's `disk_faults/control.rs` and `disk_faults/journal.rs` say the same in Rust. Both files live as long as
 * one test, so a change is made on both sides at once and needs a new version only to be noticed when it was not.
 */
#ifndef DISK_FAULTS_LAYOUT_H
#define DISK_FAULTS_LAYOUT_H

#include <stdatomic.h>
#include <stdint.h>

#define CONTROL_MAGIC UINT64_C(0x544c55464b534944) /* "DISKFULT" */
#define CONTROL_VERSION 2
#define SLOTS_MAX 64
#define RING_MAX 4096
#define NAMES_WORDS 4

/* One process that has touched what is watched. The last slot is shared by all that found no other. */
struct slot {
    _Atomic uint64_t pid;
    _Atomic uint64_t fsyncs;
    _Atomic uint64_t fdatasyncs;
    _Atomic uint64_t writes;
    _Atomic uint64_t written_bytes;
    _Atomic uint64_t failed_syncs;
    _Atomic uint64_t failed_writes;
    _Atomic uint64_t shortened_writes;
};

/* One sync that ended well. `number` is 0 while the entry is being written. */
struct ring_entry {
    _Atomic uint64_t number;
    _Atomic uint64_t begun_number;
    _Atomic uint64_t begun_ns;
    _Atomic uint64_t ended_ns;
    _Atomic uint64_t inode;
    _Atomic uint64_t length;
    _Atomic uint64_t pid;
    _Atomic uint64_t kind;
};

struct control {
    uint64_t magic;
    uint64_t version;
    _Atomic uint64_t sync_delay_us;
    _Atomic uint64_t sync_errno;
    _Atomic uint64_t sync_failures_left;
    _Atomic uint64_t write_errno;
    _Atomic uint64_t write_failures_left;
    _Atomic uint64_t short_writes_left;
    _Atomic uint64_t log_syncs;
    _Atomic uint64_t crash_call;
    _Atomic uint64_t crash_moment;
    _Atomic uint64_t crash_left;
    _Atomic uint64_t names[NAMES_WORDS]; /* text, filled up with zeros */
    _Atomic uint64_t sequence;
    _Atomic uint64_t syncs_begun;
    _Atomic uint64_t syncs_done;
    _Atomic uint64_t journal_errors;
    _Atomic uint64_t untracked;
    _Atomic uint64_t crashes;
    uint64_t reserved[2];
    struct slot slots[SLOTS_MAX];
    struct ring_entry ring[RING_MAX];
};
_Static_assert(sizeof(struct control) == 8 * (24 + 8 * SLOTS_MAX + 8 * RING_MAX), "the layout of the control file");

/* The calls at which a process can end, and when. */
enum call { WRITES = 1, SYNCS = 2, RENAMES = 3, UNLINKS = 4, TRUNCATIONS = 5 };
enum ending { NEVER = 0, BEFORE = 1, WITHIN = 2, AFTER = 3 };

#define RECORD_MAGIC UINT32_C(0x4a464b44) /* "DKFJ" */

enum record_kind {
    CREATED = 1,       /* directory/name now names the new file `inode`; no name: a file that has none yet */
    LINKED = 2,        /* directory/name is one more name of `inode` */
    RENAMED = 3,       /* directory/name became other_directory/second name, where `other` was (0: nothing) */
    EXCHANGED = 4,     /* directory/name and other_directory/second name changed places; `other` stood at the second */
    UNLINKED = 5,      /* directory/name no longer names `inode` */
    FILE_SYNCED = 6,   /* of `inode`, `other` bytes last; the sync began when the sequence was at `began` */
    FOLDER_SYNCED = 7, /* of directory `inode`, all names last that were journalled before `began` */
    TRUNCATED = 8,     /* `inode` was shortened to `other` bytes */
    OVERWRITTEN = 9,   /* bytes of `inode` that a sync had made last were written anew */
    MAPPED = 10,       /* `inode` was mapped for writing, so nobody sees its writes */
};

enum record_flag {
    IS_FOLDER = 1,       /* `inode` is a directory */
    OTHER_IS_FOLDER = 2, /* `other` is a directory */
};

/* Followed by the two names. `sum` is FNV-1a of the whole record with `sum` as 0. */
struct record {
    uint32_t magic;
    uint16_t kind;
    uint16_t flags;
    uint16_t name_length;
    uint16_t second_length;
    uint32_t sum;
    uint64_t sequence;
    uint64_t directory;
    uint64_t inode;
    uint64_t other_directory;
    uint64_t other;
    uint64_t began;
};
_Static_assert(sizeof(struct record) == 64, "the layout of a record");

#endif
