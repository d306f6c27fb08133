//! New inputs from old ones: parts of two seeds glued together, then a few bytes changed.

use crate::chance::Chance;

/// Bytes that mean something to one parser or another.
const TELLING: &[u8] =
    b"\0\x01\x02\x04\x10\x30\x32\x3D\x62\x7F\x80\x82\xA2\xC0\xE0\xF0\xFE\xFF{}[]\":,/+#$'-.0e\\u";

/// Makes an input of at most `bytes_max` bytes out of `seeds`, of which there is one at least.
pub fn mutate(seeds: &[Vec<u8>], chance: &mut Chance, bytes_max: usize) -> Vec<u8> {
    let mut input = seed(seeds, chance).to_vec();
    if chance.below(3) == 0 {
        let other = seed(seeds, chance);
        input.truncate(place(input.len(), chance));
        input.extend(&other[place(other.len(), chance)..]);
    }
    for _ in 0..1 << chance.below(4) {
        change(&mut input, chance);
    }
    input.truncate(bytes_max);
    input
}

fn seed<'a>(seeds: &'a [Vec<u8>], chance: &mut Chance) -> &'a [u8] {
    &seeds[chance.below(seeds.len() as u64) as usize]
}

/// A place between two bytes, before the first or behind the last.
fn place(length: usize, chance: &mut Chance) -> usize {
    chance.below(length as u64 + 1) as usize
}

fn byte(chance: &mut Chance) -> u8 {
    match chance.below(2) {
        0 => TELLING[chance.below(TELLING.len() as u64) as usize],
        _ => chance.below(256) as u8,
    }
}

fn change(input: &mut Vec<u8>, chance: &mut Chance) {
    let at = place(input.len(), chance);
    let end = (at + 1 + chance.below(8) as usize).min(input.len());
    match chance.below(6) {
        0 => input.insert(at, byte(chance)),
        1 => drop(input.drain(at..end)),
        2 => {
            let copy = input[at..end].to_vec();
            let to = place(input.len(), chance);
            input.splice(to..to, copy);
        }
        _ if at == input.len() => input.push(byte(chance)),
        3 => input[at] = byte(chance),
        4 => input[at] ^= 1 << chance.below(8),
        _ => input[at] = input[at].wrapping_add(1).wrapping_sub(2 * chance.below(2) as u8),
    }
}
