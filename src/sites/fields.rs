//! Reads what another node has written, field by field: numbers with the highest byte first. What comes in is a stranger's.

/// What is no message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Malformed;

/// What has not been read yet of a message.
pub struct Fields<'m>(pub &'m [u8]);

impl Fields<'_> {
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*array)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A text with its length in one byte before it.
    pub fn name(&mut self) -> Result<String, Malformed> {
        let length = usize::from(self.u8()?);
        let (name, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        String::from_utf8(name.to_vec()).map_err(|_| Malformed)
    }

    /// At most `most` items of `least` bytes each or more. Memory is taken only for as many as can be there.
    pub fn list<T>(
        &mut self,
        most: usize,
        least: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = usize::from(self.u16()?);
        if count > most || count * least > self.0.len() {
            return Err(Malformed);
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }
}
