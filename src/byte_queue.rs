//! Bytes waiting for a socket: a bounded ring that owns no memory while it is empty.
//!
//! A thousand idle connections have a thousand empty queues; each costs its own few words and nothing on the heap.

use std::{collections::VecDeque, io::IoSlice};

/// Bytes in the order in which they must leave.
#[derive(Debug, Default)]
pub struct ByteQueue {
    bytes: VecDeque<u8>,
}

impl ByteQueue {
    /// Adds `bytes` at the end.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The waiting bytes as at most two slices, for one vectored write.
    pub fn as_io_slices(&self) -> [IoSlice<'_>; 2] {
        let (front, back) = self.bytes.as_slices();
        [IoSlice::new(front), IoSlice::new(back)]
    }

    /// The waiting bytes as at most two slices, oldest first.
    pub fn as_slices(&self) -> (&[u8], &[u8]) {
        self.bytes.as_slices()
    }

    /// Forgets the first `n` bytes: they have left. The memory is given back when nothing is left.
    ///
    /// # Panics
    /// If fewer than `n` bytes wait.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.bytes.len(), "{n} bytes left a queue of {}", self.bytes.len());
        if n == self.bytes.len() {
            self.bytes = VecDeque::new();
        } else {
            self.bytes.drain(..n);
        }
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        self.bytes = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(queue: &ByteQueue) -> Vec<u8> {
        let (front, back) = queue.as_slices();
        [front, back].concat()
    }

    #[test]
    fn bytes_leave_in_the_order_they_came() {
        let mut queue = ByteQueue::default();
        queue.push(b"abc");
        queue.consume(2);
        queue.push(b"defgh");
        assert_eq!(contents(&queue), b"cdefgh");
        assert_eq!(queue.len(), 6);
    }

    #[test]
    fn an_emptied_queue_owns_no_memory() {
        let mut queue = ByteQueue::default();
        queue.push(&[0; 1000]);
        queue.consume(1000);
        assert!(queue.is_empty());
        assert_eq!(queue.bytes.capacity(), 0);
    }

    #[test]
    #[should_panic(expected = "3 bytes left a queue of 2")]
    fn more_bytes_cannot_leave_than_wait() {
        let mut queue = ByteQueue::default();
        queue.push(b"ab");
        queue.consume(3);
    }
}
