/*
 * The journal and the graveyard: what this process was promised, and what it may get back.
 *
 * A record is one write at the end of the journal, so records of threads and processes never mix, and a kill leaves
 * whole ones. A grave is a hard link to a file that lost a name; it ends with the sync that makes the loss last.
 */
#include "watch.h"

#include <sys/file.h>

static _Atomic(struct slot *) own_slot;
static _Atomic uint64_t graves;

/* === the journal === */

/* The slot of this process. Its journal is locked as long as it lives, so that nobody cuts the power under it. */
struct slot *attach(void)
{
    struct slot *known = atomic_load_explicit(&own_slot, memory_order_acquire);
    if (known != NULL) {
        return known;
    }
    while (flock(journal, LOCK_SH) != 0 && errno == EINTR) {
    }
    uint64_t pid = (uint64_t)getpid();
    struct slot *slot = &control->slots[SLOTS_MAX - 1];
    for (size_t at = 0; at < SLOTS_MAX; at++) {
        uint64_t seen = 0;
        if (atomic_compare_exchange_strong(&control->slots[at].pid, &seen, pid) || seen == pid) {
            slot = &control->slots[at];
            break;
        }
    }
    atomic_store_explicit(&own_slot, slot, memory_order_release);
    return slot;
}

/* A child has the parent's memory, but counts for itself. */
void after_fork(void)
{
    atomic_store_explicit(&own_slot, NULL, memory_order_release);
}

static uint32_t sum_of(const unsigned char *bytes, size_t length)
{
    uint32_t sum = UINT32_C(2166136261);
    for (size_t at = 0; at < length; at++) {
        sum = (sum ^ bytes[at]) * UINT32_C(16777619);
    }
    return sum;
}

/* Journals what has just happened and answers its number. One write, so that records never mix. */
uint64_t append(struct record record, const struct place *first, const struct place *second)
{
    unsigned char bytes[sizeof record + 2 * NAME_MAX];
    size_t length = sizeof record;
    attach();
    record.magic = RECORD_MAGIC;
    record.sequence = atomic_fetch_add_explicit(&control->sequence, 1, memory_order_acq_rel);
    if (first != NULL) {
        record.directory = first->directory;
        record.name_length = (uint16_t)first->length;
        memcpy(bytes + length, first->name, first->length);
        length += first->length;
    }
    if (second != NULL) {
        record.other_directory = second->directory;
        record.second_length = (uint16_t)second->length;
        memcpy(bytes + length, second->name, second->length);
        length += second->length;
    }
    memcpy(bytes, &record, sizeof record);
    record.sum = sum_of(bytes, length);
    memcpy(bytes, &record, sizeof record);
    if (NEXT(write)(journal, bytes, length) != (ssize_t)length) {
        add(&control->journal_errors, 1);
    }
    return record.sequence;
}

/* Bytes that had been promised are no longer what they were. Noted once between two syncs. */
void note_overwrite(struct file *file)
{
    if (get(&file->overwrite_noted) == 0) {
        append((struct record){.kind = OVERWRITTEN, .inode = get(&file->inode)}, NULL, NULL);
        set(&file->overwrite_noted, 1);
    }
}

void note_truncation(uint64_t inode, uint64_t bytes)
{
    append((struct record){.kind = TRUNCATED, .inode = inode, .other = bytes}, NULL, NULL);
    struct file *file = find_file(inode, bytes);
    if (file != NULL && get(&file->synced_bytes) > bytes) {
        set(&file->synced_bytes, bytes);
    }
}

/* === the graveyard === */

static char *put_grave(struct grave *grave)
{
    char *end = put_text(grave->path, graveyard);
    *end++ = '/';
    return end;
}

void bury(int directory, const char *path, struct grave *grave)
{
    uint64_t number = atomic_fetch_add_explicit(&control->sequence, 1, memory_order_acq_rel);
    put_number(put_text(put_grave(grave), "burial-"), number, 16);
    if (NEXT(linkat)(directory, path, AT_FDCWD, grave->path, 0) != 0) {
        grave->path[0] = '\0';
    }
}

/* The name was not lost after all. */
void exhume(struct grave *grave)
{
    if (grave->path[0] != '\0') {
        NEXT(unlinkat)(AT_FDCWD, grave->path, 0);
    }
}

/* The name was lost, and the record of this number says so: from now on a sync of the directory may end the grave. */
void mark(struct grave *grave, uint64_t directory, uint64_t sequence)
{
    if (grave->path[0] == '\0') {
        return;
    }
    struct grave marked;
    char *end = put_number(put_grave(&marked), directory, 16);
    *end++ = '-';
    put_number(end, sequence, 16);
    if (NEXT(renameat2)(AT_FDCWD, grave->path, AT_FDCWD, marked.path, 0) == 0) {
        add(&graves, 1);
    }
}

/* Ends the graves of a directory that was synced: those names are gone for good, and their files may go too. */
void purge(uint64_t directory, uint64_t began)
{
    if (get(&graves) == 0) {
        return;
    }
    int fd = NEXT(openat)(AT_FDCWD, graveyard, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    _Alignas(struct dirent64) char bytes[4096];
    long length;
    while ((length = syscall(SYS_getdents64, fd, bytes, sizeof bytes)) > 0) {
        for (long at = 0; at < length;) {
            const struct dirent64 *entry = (const struct dirent64 *)(bytes + at);
            at += entry->d_reclen;
            char *end = NULL;
            uint64_t of = strtoull(entry->d_name, &end, 16);
            if (*end != '-' || of != directory || strtoull(end + 1, NULL, 16) >= began) {
                continue;
            }
            if (NEXT(unlinkat)(fd, entry->d_name, 0) == 0) {
                atomic_fetch_sub_explicit(&graves, 1, memory_order_acq_rel);
            }
        }
    }
    NEXT(close)(fd);
}
